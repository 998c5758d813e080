"""Progress of a run: losses, images per second, remaining time. A bar on a terminal, occasional lines in a log."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from callbacks.checkpointing import RunCheckpoint
from callbacks.monitor import monitor_of
from utils.progress import LogThrottle, on_terminal

BARS = ("_train_progress_bar", "_val_progress_bar", "_test_progress_bar", "_predict_progress_bar")


class RunProgress(TQDMProgressBar):
    """Lightning's progress bar over the whole run (its only epoch), with images per second and short numbers.

    If stdout is not a terminal, prints plain lines instead, as often as :class:`utils.progress.LogThrottle` allows, and
    one line per evaluation of a training run.

    Args:
        refresh_rate: training steps between updates; on a GPU at least ``log_every_n_steps``.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._speed_start = (0.0, 0)  # time, images seen
        self._training = LogThrottle(0)
        self._batches = LogThrottle(0)  # of an evaluation or a prediction

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not on_terminal(sys.stdout):
            self.disable()
        if trainer.strategy.root_device.type == "cuda":  # each update waits for the losses of its step
            self._refresh_rate = max(self._refresh_rate, cast(Any, trainer).log_every_n_steps)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bars, so that the next message starts on a new line."""
        for name in BARS:
            if (bar := getattr(self, name, None)) is not None:
                bar.close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._speed_start = (time.monotonic(), pl_module.images_seen)
        self._training = LogThrottle(self.total_train_batches, getattr(pl_module, "step", 0))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._training.done = batch_idx + 1
        if self._due(trainer, self._training):
            metrics = [f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items()]
            progress = self._training.describe(f"{pl_module.kimg:.3g} kimg")
            print(f"training: {', '.join([progress, *metrics])}", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_validation_end(trainer, pl_module)
        self._speed_start = (time.monotonic(), pl_module.images_seen)  # evaluation does not count as training time
        evaluation = getattr(pl_module, "evaluation", {})
        if self.is_disabled and evaluation and trainer.state.fn == "fit" and trainer.is_global_zero:
            numbers = [f"{name} {value:.4g}" for name, value in evaluation.items()]
            numbers += [f"{name} {value}" for name, value in self._best(trainer, pl_module).items()]
            print(f"evaluated at {pl_module.kimg:.3g} kimg: {', '.join(numbers)}", flush=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self._batches = LogThrottle(_total(trainer.num_val_batches))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._batches = LogThrottle(_total(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._batches = LogThrottle(_total(trainer.num_predict_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_validation_batch_end(trainer, *args, **kwargs)
        self._count_batch(trainer, "evaluating")

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_test_batch_end(trainer, *args, **kwargs)
        self._count_batch(trainer, "evaluating")

    def on_predict_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_predict_batch_end(trainer, *args, **kwargs)
        self._count_batch(trainer, "writing samples")

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        metrics = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in metrics.items()}
        if evaluation := getattr(pl_module, "evaluation", {}):
            name = monitor_of(trainer).name(evaluation)
            metrics |= {name: f"{evaluation.get(name, math.nan):.4g}", **self._best(trainer, pl_module)}
        start, images = self._speed_start
        if pl_module.images_seen > images:
            metrics["images/s"] = f"{(pl_module.images_seen - images) / (time.monotonic() - start):.1f}"
        return metrics

    def _best(self, trainer: Any, pl_module: Any) -> dict[str, str]:
        """Return the best value of the monitored metric so far as text; nothing before the first evaluation in training."""
        checkpoints = [callback for callback in trainer.callbacks if isinstance(callback, RunCheckpoint)]
        if trainer.sanity_checking or not checkpoints or not (best := checkpoints[0].best_with(pl_module)):
            return {}
        return {f"best {best['metric']}": f"{best['value']:.4g}"}

    def _count_batch(self, trainer: pl.Trainer, activity: str) -> None:
        self._batches.done += 1
        if self._due(trainer, self._batches):
            progress = self._batches.describe(f"batch {self._batches.done:,} of {self._batches.total:,}")
            print(f"{activity}: {progress}", flush=True)

    def _due(self, trainer: pl.Trainer, throttle: LogThrottle) -> bool:
        return self.is_disabled and trainer.is_global_zero and throttle.due()


def _total(batches: list[int | float]) -> int:
    """Add the batches of all loaders; infinite loaders count as none."""
    return sum(int(n) for n in batches if n != float("inf"))
