"""Find config files and compose them into one config.

An experiment names its parts, relative to itself. Keys next to ``base`` are merged over the part that ``base`` names::

    # chairs.yaml                          # demo.yaml
    seed_everything: 0                     base: chairs.yaml
    model: model/iggan.yaml                model:
    data: data/chairs.yaml                   init_args: {latent_size: 64}
    trainer: trainer/default.yaml          data:
                                             base: data/small.yaml     # another part, with one value changed
                                             init_args: {batch_size: 16}
                                           trainer:
                                             callbacks+: [{class_path: callbacks.ShapeWriter}]

- Any mapping may have a ``base``: one YAML file or a list of them. Later files override earlier ones, and the mapping's own
  keys override all of them. ``model: x.yaml`` (or data, trainer) is short for ``model: {base: x.yaml}``.
- Mappings merge key by key; any other value replaces the earlier one. ``name+: [...]`` appends to the earlier list.
- A different ``class_path`` drops the ``init_args`` of the class that it replaces.
- Several ``--config`` files merge in their order. Command-line options override all files.
- ``${data.init_args.size}`` is resolved last, from the top of the experiment, so that it follows every override.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import configs
from trainer.cli.argument_types import expand_home
from trainer.cli.config_yaml import dump_yaml, load_yaml
from utils.errors import InputError
from utils.legacy_names import update_config

PROJECT_CONFIGS = configs.FOLDER
SECTIONS = ("model", "data", "trainer")
RUN_KEYS = ("run_dir", "ckpt_path", "checkpoint_minutes", "keep_checkpoints", "monitor", "mode", "fresh", "trust")
KEYS = ("seed_everything", *SECTIONS, *RUN_KEYS)  # of an experiment


@dataclass
class Composed:
    """A config composed of files.

    Args:
        values: The merged values, interpolations unresolved.
        origins: The file that each dotted key comes from, for messages.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)

    def origin(self, key: str) -> Path | None:
        """The file that sets ``key`` or the nearest mapping around it."""
        parts = key.split(".")
        for length in range(len(parts), 0, -1):
            if path := self.origins.get(".".join(parts[:length])):
                return path
        return None

    def text(self) -> str:
        """The values as YAML."""
        return dump_yaml(self.values)


def names_yaml(value: object) -> bool:
    """Whether a value is the name of a config file."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def init_args(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The ``init_args`` of a section of a config; empty if it has none, as where it is only the name of a class."""
    part = values.get(section)
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return arguments if isinstance(arguments, dict) else {}


def find_config(name: str | Path, directory: Path | None = None) -> Path:
    """Find a config file by name, with or without ``.yaml``.

    Args:
        name: A path relative to ``directory`` or to the project's ``configs/``; the former comes first.
        directory: Default: the current directory.

    Raises:
        InputError: No such config; similar names are suggested.
    """
    name = Path(name).expanduser()
    folders = [directory or Path(), PROJECT_CONFIGS]
    for folder in folders:
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file():
                return candidate
    if (folders[0] / name).is_dir():
        raise InputError(f"{name} is a directory, not a config; if it is a run, pass --run_dir {name}")
    known = {
        path.relative_to(folder).as_posix()
        for folder in folders
        for pattern in ("*.yaml", "model/*.yaml", "data/*.yaml", "trainer/*.yaml", "logger/*.yaml", "speed/*.yaml")
        for path in folder.glob(pattern)
    }
    raise InputError(f"no such config {str(name)!r}{suggestion(name.as_posix(), known, 'the configs are')}")


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a message about an unknown name: similar known names, or all of them after ``otherwise``."""
    known = sorted(known)
    by_stem = {_stem(word): word for word in known}
    similar = difflib.get_close_matches(name, known, n=2) or [
        by_stem[word] for word in difflib.get_close_matches(_stem(name), by_stem, n=2)
    ]
    if similar:
        return f"; did you mean {' or '.join(similar)}?"
    return f"; {otherwise} {', '.join(known)}" if otherwise and known else ""


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".yaml")


def compose(
    names: Iterable[str | Path], parts: Mapping[str, str] | None = None, base: Mapping[str, Any] | None = None
) -> Composed:
    """Read experiments with their parts and bases, and merge later ones over earlier ones.

    Args:
        names: The experiments' configs.
        parts: Parts to merge over them, by section.
        base: Values to merge them over.

    Raises:
        InputError: A file does not exist, is not YAML, or has itself as a base.
    """
    composed = Composed(dict(base or {}))
    for name in names:
        values = _resolve_file(find_config(name), "", composed.origins, ())
        composed.values = merge(composed.values, values)
    for section, name in (parts or {}).items():
        values = _resolve_file(find_config(name), section, composed.origins, ())
        composed.values = merge(composed.values, {section: values})
    composed.values = update_config(composed.values)
    return composed


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge ``over`` into ``under`` by the rules in the module's docstring; both are left unchanged."""
    if under.get("class_path", over.get("class_path")) != over.get("class_path", under.get("class_path")):
        return over
    merged = dict(under)
    for key, value in over.items():
        extended = key if key in merged else key.removesuffix("+")  # name+ itself if there is no list yet
        if key.endswith("+") and isinstance(value, list) and isinstance(merged.get(extended), list):
            merged[extended] = merged[extended] + value
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _resolve_file(path: Path, prefix: str, origins: dict[str, Path], inside: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in inside:
        raise InputError(f"{path} has itself as a base")
    values = load_yaml(path)
    sections = [values[section] for section in SECTIONS if isinstance(values.get(section), dict)] if not prefix else []
    for part in [values, *sections] if prefix in ("", *SECTIONS) else []:
        bases = part.get("base", [])
        if not all(map(names_yaml, bases if isinstance(bases, list) else [bases])):
            raise InputError(f"{path}: base must name YAML files, such as demo.yaml, not {bases!r}")
    if not prefix:
        values = {k: {"base": v} if k in SECTIONS and names_yaml(v) else v for k, v in values.items()}
    return _resolve(values, path, prefix, origins, (*inside, path.resolve()))


def _resolve(value: Any, path: Path, prefix: str, origins: dict[str, Path], inside: tuple[Path, ...]) -> Any:
    """Replace every ``base`` in a file's value by the files that it names."""
    if isinstance(value, list):
        return [_resolve(item, path, prefix, origins, inside) for item in value]
    if not isinstance(value, dict):
        return expand_home(value) if isinstance(value, str) and value.startswith("~") else value
    bases = value.get("base")
    bases = bases if isinstance(bases, list) else [bases]
    if not all(map(names_yaml, bases)):  # an argument that happens to be called base
        bases = []
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, _resolve_file(find_config(base, path.parent), prefix, origins, inside))
    own = {}
    for key, item in value.items():
        if key == "base" and bases:
            continue
        dotted = f"{prefix}.{key}" if prefix else key
        origins[dotted.removesuffix("+")] = path
        own[key] = _resolve(item, path, dotted, origins, inside)
    return merge(merged, own)
