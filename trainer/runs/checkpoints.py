"""Which file ``--ckpt_path`` means, whether it is a whole checkpoint, and how one is written."""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from utils.errors import InputError
from utils.files import save_torch
from callbacks.checkpointing import BEST, LAST, NUMBERED, PREVIOUS
from trainer.runs.run_directory import RunDirectory, newest_run


class CorruptCheckpointError(InputError):
    """A checkpoint that is not whole, as an interrupted writing or a bad disk leaves it."""


@dataclass(frozen=True)
class Place:
    """Where a checkpoint stands in its run.

    Args:
        steps: training steps done.
        logged: the last ``step`` that its loggers may have been told of.
    """

    steps: int
    logged: int


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, onto the disk, then moves it there; Lightning's goes by /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        save_torch(checkpoint, Path(path))


def resolve(name: str | None, run: RunDirectory | None, experiment: str) -> Path | None:
    """The checkpoint that ``--ckpt_path`` names.

    Args:
        name: A file, ``last``, ``best``, or None.
        run: The run that ``last`` and ``best`` are looked up in; without it, the newest run of the experiment.
        experiment: Name of the experiment.

    Raises:
        InputError: It is not there, or it is no checkpoint that can be read.
    """
    if name is None:
        return None
    if name not in ("last", "best"):
        check(Path(name))
        return Path(name)
    run = run or newest_run(experiment, finished=False)
    if run is None:
        raise InputError(f"--ckpt_path {name}: no run of {experiment} has a checkpoint; name its folder by --run_dir")
    if name == "last" and (path := last_good(run)):
        return path
    found = sorted(run.checkpoints.glob(f"{name}*.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError(f"--ckpt_path {name}: {run.checkpoints} holds no {name} checkpoint")
    check(found[-1])
    return found[-1]


def last_good(run: RunDirectory, say: bool = True) -> Path | None:
    """The newest checkpoint of a run that is whole; what is passed over for it is said. None where there is none at all.

    Raises:
        InputError: None of them is whole, or one holds more than data.
    """
    names = [run.checkpoints / LAST, run.checkpoints / PREVIOUS]
    others = [*run.checkpoints.glob(NUMBERED), run.checkpoints / BEST]
    names += sorted((p for p in others if p.is_file()), key=lambda p: p.stat().st_mtime, reverse=True)
    damaged, missing = [], not names[0].is_file()
    for path in names:
        if not path.is_file():
            continue
        try:
            place = check(path)
        except CorruptCheckpointError:
            damaged.append(path)
            continue
        if (damaged or missing) and say:
            passed = " and ".join([LAST] * missing + [p.name for p in damaged])
            what = "is missing or damaged" if missing else "cannot be read: damaged"
            print(f"{passed} of {run.path} {what}; {path.name} of step {place.steps} is taken instead", flush=True)
        return path
    if damaged:
        raise InputError(
            f"{', '.join(map(str, damaged))}: no checkpoint that can be read is left, all are damaged; --fresh starts anew"
        )
    return None


def check(path: Path) -> Place:
    """Refuse what is not there, not whole, not ours, or holds more than data; returns where it stands in its run.

    Raises:
        CorruptCheckpointError: It is not whole.
        InputError: Anything else; one sentence says what.
    """
    if not path.exists():
        raise InputError(f"there is no checkpoint {path}")
    try:
        if zipfile.is_zipfile(path):  # torch itself does not look at the checksums
            with zipfile.ZipFile(path) as file:
                if file.testzip() is not None:
                    raise zipfile.BadZipFile
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler fail in any way there is
        if isinstance(error, pickle.UnpicklingError) and re.search(r"Unsupported (global|class)", str(error)):
            raise InputError(f"{path} holds more than data and is not loaded, since it could run code") from error
        raise CorruptCheckpointError(f"{path} is no checkpoint that can be read: it is damaged or of another kind") from error
    if not isinstance(content, dict) or "state_dict" not in content or "pytorch-lightning_version" not in content:
        raise InputError(f"{path} is no training checkpoint: it holds no state_dict")
    return _place(content)


def _place(content: dict[str, Any]) -> Place:
    if "clock" in content:  # a module of ours counts from 1, after each step
        return Place(content["clock"]["step"], content["clock"]["step"])
    batches = content.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    steps = batches.get("total", {}).get("processed", 0)
    return Place(steps, steps - 1)
