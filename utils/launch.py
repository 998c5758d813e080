"""Which launcher started this process, judged by environment variables, before torch or a trainer exists.

Variables that look like those of a launcher are common: a shell inside a SLURM allocation has ``SLURM_NTASKS``, a container
may have ``RANK``. They count only if a launcher really started this process together with others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE")


class Launch(NamedTuple):
    """The launcher of this process.

    Args:
        name: Of the launcher; empty if there is none.
        rank: Of this process.
        processes: How many it started; 1 without a launcher, 0 if the launcher does not say.
    """

    name: str = ""
    rank: int = 0
    processes: int = 1


def launch() -> Launch:
    """Return the launcher of this process: torchrun, srun, or a program that sets ``MASTER_ADDR`` and a rank."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Launch("torchrun", _number("RANK"), _number("WORLD_SIZE", 1))
    if _number("SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in os.environ:
        return Launch("srun", _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS", 1))
    if "MASTER_ADDR" in os.environ and not os.environ.keys().isdisjoint(("RANK", "LOCAL_RANK")):  # Lightning's, mpirun
        return Launch("the launcher", _number("RANK", _number("LOCAL_RANK")), _number("WORLD_SIZE"))
    return Launch()


@contextmanager
def without_stray_variables() -> Iterator[list[str]]:
    """Remove variables of launchers that did not start this process, which Lightning would believe.

    Yields:
        A sentence for each launcher whose variables ask for several processes.
    """
    started_by = launch().name
    stray = [] if started_by or "MASTER_ADDR" in os.environ else [name for name in RANKS if name in os.environ]
    if started_by != "srun" and "SLURM_NTASKS" in os.environ:
        stray.append("SLURM_NTASKS")
    notes = []
    if ranks := [name for name in stray if name in RANKS]:
        notes.append(
            f"ignoring {' and '.join(ranks)}: without MASTER_ADDR no launcher started this process; use torchrun for "
            "several processes"
        )
    if "SLURM_NTASKS" in stray and not started_by and _number("SLURM_NTASKS", 1) > 1:
        notes.append(
            f"ignoring SLURM_NTASKS={os.environ['SLURM_NTASKS']}: srun did not start this process; use "
            "configs/cluster/slurm.sh for several processes"
        )
    removed = {name: os.environ.pop(name) for name in stray}
    try:
        yield notes
    finally:
        os.environ.update(removed)


def _number(name: str, default: int = 0) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
