"""Find, validate and write checkpoint files."""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from callbacks.checkpointing import BEST, LAST, NUMBERED, PREVIOUS
from trainer.runs.published import FORMAT
from trainer.runs.run_directory import RunDirectory, newest_run
from utils.errors import InputError, is_temporary, system_reason
from utils.files import save_torch
from utils.torch_io import check_stored


class CorruptCheckpointError(InputError):
    """A checkpoint is incomplete or has wrong content, as after an interrupted write or on a bad disk."""


@dataclass(frozen=True)
class CheckpointPosition:
    """The position of a checkpoint in its run.

    Args:
        steps: Training steps done.
        logged: The last ``step`` that loggers may have received.
    """

    steps: int
    logged: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes and syncs a temporary file next to the checkpoint, then renames it. Lightning's own goes through /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        save_torch(checkpoint, Path(path))


def resolve(name: str, run: RunDirectory | None, experiment: str) -> Path:
    """The checkpoint that ``--ckpt_path`` names.

    Args:
        name: A file, ``last`` or ``best``.
        run: The run that ``last`` and ``best`` refer to; None means the newest run of the experiment.
        experiment: Name of the experiment.

    Raises:
        InputError: The checkpoint does not exist or is invalid.
    """
    if name not in ("last", "best"):
        check(Path(name))
        return Path(name)
    run = run or newest_run(experiment, finished=False)
    if run is None:
        raise InputError(f"--ckpt_path {name}: no run of {experiment} has a checkpoint; pass --run_dir RUN")
    if name == "last" and (path := newest_valid(run)):
        return path
    paths = sorted(run.checkpoints.glob(f"{name}*.ckpt"), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise InputError(f"--ckpt_path {name}: {run.checkpoints} has no {name} checkpoint")
    check(paths[-1])
    return paths[-1]


def newest_valid(run: RunDirectory, report: bool = True) -> Path | None:
    """The newest valid checkpoint of a run; None if the run has no checkpoint at all.

    Args:
        run: The run.
        report: Print which checkpoints were skipped.

    Raises:
        InputError: None of them is valid, or one holds more than data.
    """
    paths = [run.checkpoints / LAST, run.checkpoints / PREVIOUS]
    others = [*run.checkpoints.glob(NUMBERED), run.checkpoints / BEST]
    paths += sorted((p for p in others if p.is_file()), key=lambda p: p.stat().st_mtime, reverse=True)
    corrupt: list[Path] = []
    missing = not paths[0].is_file()
    for path in filter(Path.is_file, paths):
        try:
            position = check(path)
        except CorruptCheckpointError:
            corrupt.append(path)
            continue
        if report and (corrupt or missing):
            skipped = " and ".join([LAST] * missing + [p.name for p in corrupt])
            reason = "missing or corrupt" if missing else "corrupt"
            print(f"{run.path}: {skipped} {reason}; using {path.name} of step {position.steps} instead", flush=True)
        return path
    if corrupt:
        raise InputError(f"all checkpoints are corrupt: {', '.join(map(str, corrupt))}; pass --fresh to start over")
    return None


def check(path: Path) -> CheckpointPosition:
    """Validate a checkpoint file and return its position in its run.

    Raises:
        CorruptCheckpointError: The file is incomplete or of another format.
        InputError: The file does not exist, cannot be read at present, is not a training checkpoint, or holds more than
            data.
    """
    if not path.exists():
        raise InputError(f"checkpoint {path} does not exist")
    try:
        check_stored(path)
        if zipfile.is_zipfile(path):  # torch itself does not verify the checksums
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:
                    raise zipfile.BadZipFile
        content = torch.load(path, map_location="meta", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a corrupt file makes the unpickler raise anything
        if is_temporary(error):  # another checkpoint would resume from an older state
            raise InputError(f"{path} cannot be read: {system_reason(error)}; try again when it can") from error
        if isinstance(error, pickle.UnpicklingError) and re.search(r"Unsupported (global|class)", str(error)):
            raise InputError(f"{path} holds more than data and is not loaded, because it could run code") from error
        raise CorruptCheckpointError(f"{path} is not a readable checkpoint: corrupt or of another format") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        raise InputError(f"{path} is a published generator, not a checkpoint; pass it as --run_dir {path}")
    if not isinstance(content, dict) or "state_dict" not in content or "pytorch-lightning_version" not in content:
        raise InputError(f"{path} is not a training checkpoint: it has no state_dict")
    try:
        return _position(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a training checkpoint: its position in the run is invalid") from error


def _position(content: dict[str, Any]) -> CheckpointPosition:
    if "clock" in content:  # the project's modules count from 1, after each step
        step, images = content["clock"]["step"], content["clock"]["images_seen"]
        if not (type(step) is int and isinstance(images, int | float)):
            raise TypeError
        return CheckpointPosition(step, step)
    batches = content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    steps = int(batches.get("total", {}).get("processed", 0))
    return CheckpointPosition(steps, steps - 1)
