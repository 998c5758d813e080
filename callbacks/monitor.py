"""The metric of evaluations that ranks the checkpoints of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from renderers import InputError

Mode = Literal["min", "max"]
MINIMIZED = ("sfid", "fid", "kid", "mmd", "one_nn_accuracy", "normal_error", "hollow_rate", "val_relative_error")
MAXIMIZED = (
    *("precision", "recall", "density", "image_coverage", "coverage", "largest_piece", "nearest_iou"),
    *("depth_correlation", "silhouette_iou", "val_accuracy"),
)
DEFAULTS = ("sfid", "fid", "kid", "val_relative_error", "val_accuracy")  # the first one that an evaluation has
MODES: dict[str, Mode] = {**dict.fromkeys(MINIMIZED, "min"), **dict.fromkeys(MAXIMIZED, "max")}


@dataclass(frozen=True)
class Monitor:
    """Which metric ranks evaluations.

    Args:
        metric: a metric of the evaluation; None takes spatial FID (``sfid``), or else FID, or else KID, and for the neural
            renderer and the classifier their error and accuracy (``val_relative_error``, ``val_accuracy``).
        mode: whether the best value is the minimum or the maximum; None takes the metric's own.

    Raises:
        InputError: a mode without a metric, or a metric whose mode is not known.
    """

    metric: str | None = None
    mode: Mode | None = None

    def __post_init__(self) -> None:
        if self.metric is None and self.mode is not None:
            raise InputError(f"mode {self.mode} needs a metric; set monitor as well")
        if self.metric is not None and self.mode is None and self.metric not in MODES:
            raise InputError(
                f"monitor {self.metric} is none of the metrics {', '.join(sorted(MODES))}; use one of them, or set mode "
                "to min or max as well"
            )

    def name(self, evaluation: Mapping[str, Any]) -> str:
        """Return the metric that ranks this evaluation."""
        return self.metric or next((name for name in DEFAULTS if name in evaluation), "kid")

    def check(self, evaluation: Mapping[str, Any]) -> None:
        """Check that an evaluation has the metric.

        Raises:
            InputError: listing the metrics that there are.
        """
        if self.metric is not None and self.metric not in evaluation:
            known = f"set monitor to one of {', '.join(evaluation)}" if evaluation else "unset monitor"
            raise InputError(f"monitor {self.metric} is not a metric of this run's evaluations; {known}")

    def is_better(self, name: str, value: float, other: float) -> bool:
        """Return whether a value of the metric ``name`` is finite and better than another."""
        mode = self.mode or MODES[name]
        return math.isfinite(value) and (value < other if mode == "min" else value > other)

    def best(self, lines: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the best of the lines of a ``metrics.jsonl`` that were measured like the last one; None if none is finite.

        The evaluation before training, which has no checkpoint, counts only if there is no other.
        """
        lines = list(lines)
        name, best = self.name(lines[-1]), None
        for line in lines:
            value = line.get(name, math.nan)
            if line["note"] != lines[-1]["note"] or not math.isfinite(value):
                continue
            if best is None or best["step"] == 0 or self.is_better(name, value, best[name]):
                best = line
        return best

    def exclusion(self, first: Mapping[str, Any], best: Mapping[str, Any]) -> str:
        """Return `` after 0 kimg`` if the evaluation before training, which has no checkpoint, is better than the best.

        Args:
            first: the first evaluation.
            best: the best one of those that :meth:`best` compares.
        """
        name = self.name(best)
        better = first["step"] == 0 and self.is_better(name, first.get(name, math.nan), best[name])
        return " after 0 kimg" if better else ""


def format_metric(name: str, line: Mapping[str, Any]) -> str:
    """Format a metric of an evaluation: FIDs with one decimal, KID with its deviation over subsets, others with 3 digits."""
    value = line.get(name, math.nan)
    if name == "kid":
        return f"{value:.3g} ± {line.get('kid_std', math.nan):.2g}"
    return f"{value:.1f}" if name in ("fid", "sfid") else f"{value:.3g}"


DEFAULT = Monitor()


def monitor_of(trainer: Any) -> Monitor:
    """Return the monitor of the trainer's :class:`callbacks.checkpointing.RunCheckpoint`; :data:`DEFAULT` without it."""
    monitors = (getattr(callback, "monitor", None) for callback in trainer.callbacks)
    return next((monitor for monitor in monitors if isinstance(monitor, Monitor)), DEFAULT)
