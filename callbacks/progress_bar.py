"""How far a run is: losses, images a second, time left; a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from utils.progress import LogThrottle, on_terminal

BARS = ("_train_progress_bar", "_val_progress_bar", "_test_progress_bar", "_predict_progress_bar")


class RunProgress(TQDMProgressBar):
    """Lightning's bar over the whole run (its epoch), with images a second and short numbers.

    Where stdout is no terminal there are plain lines instead, as seldom as :class:`utils.progress.Progress` has them,
    and one for each evaluation of a training.

    Args:
        refresh_rate: training steps between updates.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._mark = (0.0, 0)
        self._lines: dict[str, LogThrottle] = {}

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, module, stage)
        if not on_terminal(sys.stdout):
            self.disable()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """End the bars' lines, so that what is said next begins a new one."""
        for name in BARS:
            if (bar := getattr(self, name, None)) is not None:
                bar.close()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._mark = (time.monotonic(), module.images_seen)
        self._lines["training"] = LogThrottle(self.total_train_batches, getattr(module, "step", 0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        if lines := self._due(trainer, "training", batch_idx + 1):
            numbers = [f"{name} {value}" for name, value in self.get_metrics(trainer, module).items()]
            print(f"training: {', '.join([lines.describe(f'{module.kimg:.3g} kimg'), *numbers])}", flush=True)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, module)
        self._mark = (time.monotonic(), module.images_seen)  # evaluation is no training time
        found = getattr(module, "evaluation", {})
        if self.is_disabled and found and trainer.state.fn == "fit" and trainer.is_global_zero:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            print(f"evaluated at {module.kimg:.3g} kimg: {numbers}", flush=True)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_validation_start(trainer, module)
        self._lines["evaluating"] = LogThrottle(_total(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_validation_batch_end(trainer, module, outputs, batch, batch_idx, dataloader_idx)
        self._say_batches(trainer, "evaluating", batch_idx)

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_test_start(trainer, module)
        self._lines["evaluating"] = LogThrottle(_total(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_test_batch_end(trainer, module, outputs, batch, batch_idx, dataloader_idx)
        self._say_batches(trainer, "evaluating", batch_idx)

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_predict_start(trainer, module)
        self._lines["writing samples"] = LogThrottle(_total(trainer.num_predict_batches))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_predict_batch_end(trainer, module, outputs, batch, batch_idx, dataloader_idx)
        self._say_batches(trainer, "writing samples", batch_idx)

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}
        metrics = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in metrics.items()}
        since, images = self._mark
        if module.images_seen > images:
            metrics["images/s"] = f"{(module.images_seen - images) / (time.monotonic() - since):.1f}"
        return metrics

    def _say_batches(self, trainer: pl.Trainer, doing: str, batch_idx: int) -> None:
        if lines := self._due(trainer, doing, batch_idx + 1):
            amount = f"batch {lines.done:,} of {lines.total:,}"
            print(f"{doing}: {lines.describe(amount)}", flush=True)

    def _due(self, trainer: pl.Trainer, doing: str, done: int) -> LogThrottle | None:
        """So much is done; the lines of it if another is due."""
        lines = self._lines.get(doing)
        if self.is_enabled or lines is None or not trainer.is_global_zero:
            return None
        lines.done = done
        return lines if lines.due() else None


def _total(batches: list[int | float]) -> int:
    """Batches of all loaders; those without end count as none."""
    return sum(int(n) for n in batches if n != float("inf"))
