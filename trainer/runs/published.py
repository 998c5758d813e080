"""Published generators: one file with the EMA of a run's generator, in half precision, and the config that it needs.

A file is written by ``torch.save`` and holds tensors, numbers and text only:

- ``format``: :data:`FORMAT`.
- ``config``: YAML of ``seed_everything``, ``model`` and ``data``, without optimizers and without paths.
- ``clock``: training steps and images seen.
- ``state_dict``: the module's weights without those of :data:`UNPUBLISHED`; floats are in half precision.
- ``note``: where it comes from. It is shown and has no effect.

Reading trusts none of it. A config may name classes of this project only, and nothing is imported before that is checked.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lightning_modules.generative import GenerativeModule
from trainer import PACKAGES
from trainer.cli.arguments import RUNS
from trainer.cli.config_composition import Composed, compose, names_yaml
from trainer.cli.config_yaml import dump_yaml, parse_yaml
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.files import save_torch
from utils.legacy_names import update_config, update_state_dict
from utils.torch_io import load_state

FORMAT = "unrender generator 1"
FOLDER = "pretrained"  # pretrained/NAME is NAME.pt of the package
PACKAGED = Path(__file__).parents[1] / FOLDER
SECTIONS = ("seed_everything", "model", "data")
UNPUBLISHED = ("generator", "discriminator")  # only training needs them: samples come from generator_ema
LOCATIONS = ("cache_dir", "proxy_checkpoint", "extractor_weights")  # arguments that only mean something on one machine
TRAINER = "trainer/default.yaml"  # the callbacks of predict and validate
BUILD_BYTES = 4 * 2**30  # that building the module may take; a config can describe networks of any size


class PublishedRun(RunDirectory):
    """A published generator, for the commands that read a run. By default they write to :func:`output_directory`.

    Args:
        file: The file.

    Raises:
        InputError: It is not a valid published generator, or its config names classes of other projects.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(output_directory(file))
        self.file = file
        content = load_state(file)
        if not _is_published(content):
            raise InputError(f"{file} is not a file of publish; pass a run directory or a file written by publish")
        self._weights: dict[str, Tensor] = update_state_dict(self._part(content, "state_dict"))
        self._clock: dict[str, int] = self._part(content, "clock")
        self.note: dict[str, Any] = self._part(content, "note")
        if not all(type(self._clock.get(key)) is int and self._clock[key] >= 0 for key in ("step", "images_seen")):
            raise self._invalid("step and images_seen must be numbers of steps and images")
        if not isinstance(content.get("config"), str):
            raise self._invalid("it has no config")
        self._values: dict[str, Any] = update_config(parse_yaml(content["config"], file))
        self._check_config()

    def __str__(self) -> str:
        return str(self.file)

    @property
    def config(self) -> Path:
        return self.file

    @property
    def settings(self) -> dict[str, Any]:
        return self._values

    def holds_run(self) -> bool:
        return False

    def compose(self, names: Iterable[str | Path] = (), parts: Mapping[str, str] | None = None) -> Composed:
        """Merge configs and parts over the published config, with the default trainer."""
        default = compose([], {"trainer": TRAINER}).values
        return compose(names, parts, default | self._values)

    def load_weights(self, module: LightningModule) -> None:
        """Load the weights into a module built from the config, in the module's precision, and set its clock.

        The generator gets the weights of its EMA. The discriminator keeps its random weights.

        Raises:
            InputError: The module is not a generator, or the weights do not fit it.
        """
        if not isinstance(module, GenerativeModule):
            raise self._invalid(f"{type(module).__name__} does not generate samples")
        expected = published_state(module)
        if missing := [*expected.keys() - self._weights.keys(), *self._weights.keys() - expected.keys()]:
            raise self._invalid(f"its weights do not fit its config: {min(missing)} is in one of them only")
        for name, target in expected.items():
            self._check_tensor(name, self._weights[name], target)
        module.load_state_dict(self._weights, strict=False)
        module.generator.load_state_dict(module.generator_ema.state_dict())
        module.on_load_checkpoint({"state_dict": {}, "clock": self._clock})

    def _check_tensor(self, name: str, tensor: Any, target: Tensor) -> None:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise self._invalid(f"{name} is not an array of numbers")
        if tensor.shape != target.shape:
            raise self._invalid(
                f"its weights do not fit its config: {name} is {list(tensor.shape)} instead of {list(target.shape)}"
            )
        if tensor.dtype != _published_dtype(target):
            raise self._invalid(f"{name} is of type {tensor.dtype}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise self._invalid(f"{name} has values that are not finite")

    def _check_config(self) -> None:
        """Check that the config is one that :func:`publish` writes, and that its classes are of this project.

        Raises:
            InputError: It is not.
        """
        values = self._values
        sections = [values.get(section) for section in ("model", "data") if section in values or section == "model"]
        if not all(isinstance(section, dict) and "class_path" in section for section in sections):
            raise self._invalid("its config has no class_path for model or data")
        if type(values.get("seed_everything", 0)) not in (int, bool) or publishable(values) != values:
            raise self._invalid("its config has other parts than those of a generator")
        for text in _texts(values):
            if "${" in text:
                raise self._invalid(f"its config refers to {text}")
        if other := foreign_class(values):
            raise InputError(
                f"{self.file} is not loaded: its config names {other}, which is not a class of this project"
            )

    def _part(self, content: dict[str, Any], key: str) -> dict[str, Any]:
        part = content.get(key)
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            raise self._invalid(f"it has no {key}")
        return part

    def _invalid(self, reason: str) -> InputError:
        return InputError(f"{self.file} is not a valid published generator: {reason}")


def output_directory(file: Path) -> Path:
    """Where commands write by default: ``runs/pretrained/NAME`` for a file of the package, else ``runs/published/PATH``.

    PATH is relative to the current directory, or absolute outside of it, so that no two files share a directory.
    """
    path = file.parent.resolve() / file.stem
    if path.parent == PACKAGED.resolve():
        return RUNS / FOLDER / path.name
    return RUNS / "published" / path.relative_to(Path.cwd() if path.is_relative_to(Path.cwd()) else path.anchor)


def is_published(file: Path) -> bool:
    """Whether a file is a published generator, of which only the format is checked."""
    try:
        return _is_published(load_state(file))
    except InputError:
        return False


def _is_published(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def find_file(path: str | Path) -> Path | None:
    """The file that ``--run_dir`` names: itself, or that of the package for ``pretrained/NAME``; None for a directory.

    A path that exists is that path.
    """
    path = Path(path)
    if path.is_file():
        return path
    packaged = PACKAGED / f"{path.name.removesuffix('.pt')}.pt"
    return packaged if not path.exists() and str(path.parent) == FOLDER and packaged.is_file() else None


def named_run(path: str | Path, ckpt_path: str | None = None) -> RunDirectory:
    """The run that ``--run_dir`` names: a directory, which need not exist or hold a run, or a published file.

    Args:
        path: The option's value.
        ckpt_path: The value of ``--ckpt_path``, which published files do not have.

    Raises:
        InputError: An invalid published file, or one with ``ckpt_path``.
    """
    file = find_file(path)
    if file is None:
        return RunDirectory(path)
    run = PublishedRun(file)
    if ckpt_path is not None:
        raise InputError(f"{path} is a published generator with one set of weights; omit --ckpt_path")
    return run


def publish(file: Path, module: GenerativeModule, config: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Write a published generator.

    Args:
        file: Where to write.
        module: The trained module.
        config: The run's config.
        note: Where the generator comes from: numbers and text.

    Raises:
        InputError: The config names classes of other projects, or a weight has no finite value in half precision.
    """
    values = publishable(config)
    if other := foreign_class(values):
        raise InputError(f"{other} is not a class of this project, and published files may hold no other classes")
    weights = {}
    for name, tensor in published_state(module).items():
        weights[name] = half = tensor.detach().cpu().to(_published_dtype(tensor))
        if half.is_floating_point() and not half.isfinite().all():
            raise InputError(f"{name} has values that are not finite in half precision (largest: 65,504)")
    content = {
        "format": FORMAT,
        "config": dump_yaml(values),
        "clock": {"step": module.step, "images_seen": module.images_seen},
        "state_dict": weights,
        "note": dict(note),
    }
    save_torch(content, file)


def published_state(module: GenerativeModule) -> dict[str, Tensor]:
    """The part of a module's state that is published."""
    return {key: value for key, value in module.state_dict().items() if key.partition(".")[0] not in UNPUBLISHED}


def _published_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float16 if tensor.is_floating_point() else tensor.dtype


def publishable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that is published: seed, model and data without optimizers, each path without its folders.

    Names of YAML files are left out, since a parser would read the files.
    """
    return _publishable({key: config[key] for key in SECTIONS if key in config})


def _publishable(value: Any) -> Any:
    if isinstance(value, Mapping):
        left_out = {
            key for key, item in value.items() if key in LOCATIONS or key.endswith("_optimizer") or names_yaml(item)
        }
        return {key: _publishable(item) for key, item in value.items() if key not in left_out}
    if isinstance(value, list | tuple):
        return [_publishable(item) for item in value if not names_yaml(item)]
    return PurePath(value.replace("\\", "/")).name if isinstance(value, str) else value


def foreign_class(config: Mapping[str, Any]) -> str | None:
    """The first class path in a config, or text that can be imported like one, that is not of a class of this project."""
    for key, text in _entries(config):
        parts = text.split(".")
        if key != "class_path" and not (len(parts) > 1 and all(map(str.isidentifier, parts)) and _exists(parts[0])):
            continue
        if not _is_own_class(text):
            return text
    return None


def _exists(module: str) -> bool:
    """Whether a top-level module can be imported; it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without a specification
        return True


def _is_own_class(path: str) -> bool:
    """Whether a class path names a class that a package of this project defines or exports."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] not in PACKAGES:
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and found.__module__.partition(".")[0] in PACKAGES


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a config with its key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _entries(item, name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _entries(item, key)
    elif key == "class_path" or isinstance(value, str):
        yield key, str(value)


def _texts(value: Any) -> Iterator[str]:
    """Each key and text in a config."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
