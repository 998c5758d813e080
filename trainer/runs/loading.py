"""Build data modules from configs and load the networks of runs, for the commands that do not train."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from lightning_modules.generative import GenerativeModule
from renderers import ViewDistribution
from trainer.cli import config_errors, run_errors
from trainer.cli.config_composition import KEYS, SECTIONS, compose, find_config, init_args
from trainer.cli.jsonargparse_compat import PARSER_MODE
from trainer.cli.log_filters import quiet
from trainer.cli.trust import check_class_paths, check_links, is_run_config, restricted_imports
from trainer.runs import checkpoints
from trainer.runs.published import BUILD_BYTES, PublishedRun, named_run
from trainer.runs.run_directory import RunDirectory, find_run
from utils.errors import InputError, printable
from utils.files import write_text
from utils.legacy_names import update_checkpoint, update_options
from utils.memory import limited_memory


class ExperimentConfig:
    """The data and model sections of a config, parsed and checked. Nothing is built and no data are read until requested.

    The model's FID extractor is replaced by ``renders_small``, whose weights always exist, because no FID is reported.

    Args:
        config: An experiment's config, several of which later ones override earlier ones, or a run.
        overrides: Options such as ``--data.root=PATH`` that change its values.
        parts: Files merged over its sections, such as ``{"data": "data/lvp.yaml"}``.
        model_only: Ignore the data.
        trust: Load any class that the config names; see :mod:`trainer.cli.trust`. None trusts all but the configs of runs.

    Raises:
        InputError: The config does not exist, it or an option is invalid, or it needs ``trust``.
    """

    def __init__(
        self,
        config: str | Path | Sequence[str] | RunDirectory,
        overrides: list[str],
        parts: dict[str, str] | None = None,
        *,
        model_only: bool = False,
        trust: bool | None = None,
    ) -> None:
        self._path = config
        if isinstance(config, RunDirectory):
            self._trust = bool(trust)
            self._composed = config.compose((), parts)
        else:
            names = [config] if isinstance(config, str | Path) else config
            self._trust = not any(is_run_config(find_config(name)) for name in names) if trust is None else trust
            self._composed = compose(names, parts)
            self._path = " and ".join(map(str, names))
            config_errors.check_keys(self._composed, KEYS)
        keys = ("model",) if model_only else ("seed_everything", *SECTIONS)  # interpolations may refer to these
        self._composed.values = {key: value for key, value in self._composed.values.items() if key in keys}
        if "extractor" in (arguments := init_args(self._composed.values, "model")):
            arguments.update(extractor="renders_small", extractor_weights=None)
        check_class_paths(self._composed.values, self._trust, str(self._path))
        self._overrides = update_options(overrides, self._composed.values)
        self._parser = LightningArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
        self._parser.add_argument("--config", action=jsonargparse.ActionConfigFile)
        self._parser.add_argument("--seed_everything", type=bool | int, default=0)
        self._parser.add_argument("--trainer", type=dict | None)
        self._parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=False)
        self._parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=not model_only)
        with tempfile.TemporaryDirectory(prefix="unrender-") as folder:
            path = Path(folder) / "composed.yaml"
            write_text(path, self._composed.text())
            self._config = self._call(self._parser.parse_args, ["--config", str(path), *self._overrides])

    @property
    def reference_views(self) -> ViewDistribution | None:
        """The view distribution of FID's reference images, if the config sets one."""
        arguments = self._config.data.get("init_args", {})
        views = arguments.get("reference_views") or arguments.get("views")
        return views and ViewDistribution(**vars(views.get("init_args", views)))

    def load_data(self) -> LightningDataModule:
        """Build the data module.

        Raises:
            InputError: The files that it reads do not exist.
        """
        return self._call(self._parser.instantiate_classes, jsonargparse.Namespace(data=self._config.data)).data

    def load_model(self) -> LightningModule:
        """Build the untrained model; its data need not exist.

        Raises:
            InputError: Parts do not fit together, or weights do not exist.
        """
        if self._config.get("model") is None:
            raise InputError(f"{self._path} has no model")
        return self._call(self._parser.instantiate_classes, jsonargparse.Namespace(model=self._config.model)).model

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the parser and raise its errors about the config as an :class:`InputError`."""
        with restricted_imports(self._overrides, trust=self._trust):
            try:
                return function(*arguments)
            except Exception as error:
                words = [word for action in self._parser._actions for word in action.option_strings]
                options = [word.lstrip("-") for word in words if word.startswith("--")]
                given = [word.partition("=")[0].lstrip("-") for word in self._overrides]
                if input_error := config_errors.config_error(error, self._composed, given, options):
                    raise input_error from error
                raised = config_errors.raised_by_part(error)
                raise raised from raised.__cause__


@dataclass(frozen=True)
class LoadedRun:
    """A run and its network.

    Args:
        folder: The run.
        checkpoint: The file that the weights come from.
        module: The network on ``module.device``, in evaluation mode, at the checkpoint's step. Batch-norm statistics of
            the generator's EMA are measured, as for ``predict``.
    """

    folder: RunDirectory
    checkpoint: Path
    module: GenerativeModule

    @property
    def name(self) -> str:
        """Experiment and number, such as ``demo 001``."""
        path = self.folder.path.resolve()
        return printable(f"{path.parent.name} {path.name}")


def load_generator(
    run_dir: str | Path | None,
    ckpt_path: str | None = None,
    *,
    device: str | torch.device | None = None,
    trust: bool = False,
) -> LoadedRun:
    """Build the network of a run from its ``config.yaml`` and load a checkpoint into it.

    The run's FID extractor is replaced by ``renders_small``, so that its weights need not exist. A published file has no
    discriminator: the module's has random weights.

    Args:
        run_dir: The run directory, a file of ``publish``, or ``pretrained/NAME`` for a generator of the package; None means
            the directory that contains ``ckpt_path``.
        ckpt_path: A file, or ``last`` (the default) or ``best`` of the run. Published files have none.
        device: None means the GPU if there is one, else the CPU.
        trust: Load any class that the run's config names, and follow its links. Other than parts of this project, torch and
            Lightning, they can run any code; see docs/trust.md.

    Raises:
        InputError: No such run or checkpoint, the checkpoint does not fit the config, the run is not of a generator, or it
            needs ``trust``.
    """
    folder = open_run(run_dir, ckpt_path, trust=trust)
    with quiet():
        if isinstance(folder, PublishedRun):
            checkpoint = folder.file
            config = ExperimentConfig(folder, [], model_only=True)
            with limited_memory(BUILD_BYTES):
                module = config.load_model()
            folder.load_weights(module)
        else:
            checkpoint = checkpoints.resolve(ckpt_path or "last", folder, folder.path.parent.name)
            module = ExperimentConfig(folder, [], model_only=True, trust=trust).load_model()
            _load_weights(module, checkpoint)
    if not isinstance(module, GenerativeModule):
        raise InputError(f"{folder} is a run of {type(module).__name__}, which does not generate samples")
    module.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)
    with torch.no_grad():
        module.measure_batch_norm()
    return LoadedRun(folder, checkpoint, module)


def open_run(run_dir: str | Path | None, ckpt_path: str | None = None, *, trust: bool = False) -> RunDirectory:
    """The run that ``--run_dir`` names, or else the one that contains the checkpoint.

    Raises:
        InputError: There is none, or it has links to the outside and is not trusted.
    """
    if run_dir is not None:
        folder = named_run(run_dir, ckpt_path)
    elif ckpt_path in (None, "last", "best"):
        raise InputError("no run is given; pass --run_dir RUN, a directory created by fit")
    else:
        checkpoints.check(Path(ckpt_path))
        run = find_run(Path(ckpt_path))
        if run is None:
            raise InputError(f"{ckpt_path} is not inside a run directory; pass --run_dir of the run that it belongs to")
        folder = run
    if not folder.config.is_file():
        raise InputError(
            f"{folder.path} is not a run directory: it has no config.yaml; pass a directory created by fit or a file of "
            "publish"
        )
    if not isinstance(folder, PublishedRun):
        check_links(folder.path, trust)
    return folder


def _load_weights(module: LightningModule, checkpoint: Path) -> None:
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    try:
        update_checkpoint(content)
        module.load_state_dict(content["state_dict"])
        module.on_load_checkpoint(content)
    except RuntimeError as error:
        raise run_errors.checkpoint_error(str(error), str(checkpoint)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # tensors and plain values, but not a training's
        raise run_errors.foreign_checkpoint(error, str(checkpoint)) from error
