"""What the callbacks that write results have in common."""

from __future__ import annotations

from typing import Any


def is_fit_evaluation(trainer: Any) -> bool:
    """Return whether the current evaluation is part of ``fit`` and this process writes its results."""
    return bool(trainer.is_global_zero and trainer.state.fn == "fit" and not trainer.fast_dev_run)


def kimg_and_step(module: Any) -> dict[str, float]:
    """Return the position in a run that loggers need: ``kimg`` and ``step``."""
    return {"kimg": module.kimg, "step": float(module.step)}
