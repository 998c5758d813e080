"""Which file ``--ckpt_path`` means, and whether it is a checkpoint at all."""

import pickle
import re
from pathlib import Path

import torch

from renderers.errors import InputError
from trainer.run_folder import RunFolder, newest_run


def resolve(name: str | None, run: RunFolder | None, experiment: str) -> Path | None:
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
    if name in ("last", "best"):
        run = run or newest_run(experiment, finished=False)
        if run is None:
            raise InputError(
                f"--ckpt_path {name}: no run of {experiment} has a checkpoint; name its folder by --run_dir"
            )
        found = sorted(run.checkpoints.glob(f"{name}*.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise InputError(f"--ckpt_path {name}: {run.checkpoints} holds no {name} checkpoint")
        path = run.last_checkpoint if run.last_checkpoint in found else found[-1]
    else:
        path = Path(name)
    check(path)
    return path


def check(path: Path) -> None:
    """Refuse what is not there, not whole, not ours, or holds more than data.

    Raises:
        InputError: One sentence says which.
    """
    if not path.exists():
        raise InputError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler fail in any way there is
        if isinstance(error, pickle.UnpicklingError) and re.search(r"Unsupported (global|class)", str(error)):
            raise InputError(f"{path} holds more than data and is not loaded, since it could run code") from error
        raise InputError(f"{path} is no checkpoint that can be read: it is damaged or of another kind") from error
    if not isinstance(content, dict) or "state_dict" not in content or "pytorch-lightning_version" not in content:
        raise InputError(f"{path} is no training checkpoint: it holds no state_dict")
