"""A run's network as its checkpoint left it, for commands that show, measure or export and train nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from lightning_modules.generative import GenerativeModule
from utils.errors import InputError
from utils.legacy_names import update_checkpoint
from trainer.runs import checkpoints
from trainer.cli import error_messages
from trainer.cli.config_composition import Composed, compose
from trainer.cli.jsonargparse_compat import PARSER_MODE
from trainer.cli.log_filters import quiet
from trainer.runs.run_directory import RunDirectory, run_of


@dataclass(frozen=True)
class LoadedRun:
    """A run and its network.

    Args:
        folder: the run.
        checkpoint: the file that the weights come from.
        config: ``config.yaml`` as mappings.
        module: on ``module.device``, in evaluation mode, at the clock of the checkpoint; a generator's moving average has
            batch-norm statistics of its own, as ``predict`` gives it.
    """

    folder: RunDirectory
    checkpoint: Path
    config: dict[str, Any]
    module: LightningModule

    @property
    def name(self) -> str:
        """The run in words: experiment and number."""
        path = self.folder.path.resolve()
        return f"{path.parent.name} {path.name}"


def load_run(
    run_dir: str | Path | None,
    ckpt_path: str | None = None,
    *,
    device: str | torch.device | None = None,
    measures: bool = False,
) -> LoadedRun:
    """Build the network of a run from its ``config.yaml`` and give it the weights of a checkpoint.

    Args:
        run_dir: the run's folder; None takes the one that ``ckpt_path`` lies in.
        ckpt_path: a file, or ``last`` (which None means too) or ``best`` of the run.
        device: None is the GPU if there is one, else the CPU.
        measures: whether FID or KID will be measured. Without it the weights of the run's extractor need not be there:
            the extractor is the one that comes with the project.

    Raises:
        InputError: no run, no checkpoint, or one of another configuration.
    """
    folder = _folder(run_dir, ckpt_path)
    checkpoint = checkpoints.resolve(ckpt_path or "last", folder, folder.path.parent.name)
    composed = compose([folder.config])
    with quiet():
        module = _instantiate(composed, measures)
        _restore(module, checkpoint)
    module.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)
    if isinstance(module, GenerativeModule):
        with torch.no_grad():
            module.measure_batch_norm()
    return LoadedRun(folder, checkpoint, composed.values, module)


def load_generator(run_dir: str | Path | None, ckpt_path: str | None = None, **options: Any) -> LoadedRun:
    """:func:`load_run` of a run that has samples.

    Raises:
        InputError: also for a run of another kind, such as a neural renderer's.
    """
    run = load_run(run_dir, ckpt_path, **options)
    if not isinstance(run.module, GenerativeModule):
        raise InputError(f"{run.folder.path} is a run of {type(run.module).__name__}, which generates nothing")
    return run


def _folder(run_dir: str | Path | None, ckpt_path: str | None) -> RunDirectory:
    if run_dir is not None:
        folder = RunDirectory(run_dir)
    elif ckpt_path in (None, "last", "best"):
        raise InputError("say which run: --run_dir RUN, a folder that fit made")
    else:
        checkpoints.check(Path(ckpt_path))
        found = run_of(Path(ckpt_path))
        if found is None:
            raise InputError(f"{ckpt_path} lies in no run; say by --run_dir whose config it was trained with")
        folder = found
    if not folder.config.is_file():
        raise InputError(f"{folder.path} is no run: it has no config.yaml; name a folder that fit made")
    return folder


def _instantiate(composed: Composed, measures: bool) -> LightningModule:
    if "model" not in composed.values:
        raise InputError(f"{composed.origin('data') or 'the config'} has no model")
    parser = LightningArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    model = composed.values["model"]
    arguments = model.get("init_args", {})
    if not measures and "extractor" in arguments:
        model = model | {"init_args": arguments | {"extractor": "renders_small", "extractor_weights": None}}
    try:
        return parser.instantiate_classes(parser.parse_object({"model": model})).model
    except Exception as error:
        if told := error_messages.find_input_error(error):
            raise told from error
        if isinstance(error, jsonargparse.ArgumentError):
            raise error_messages.parse_error(str(error), composed, (), ()) from error
        raise


def _restore(module: LightningModule, checkpoint: Path) -> None:
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    update_checkpoint(content)
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise error_messages.checkpoint_error(str(error), str(checkpoint)) from error
    module.on_load_checkpoint(content)
