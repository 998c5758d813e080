"""The progress bar: losses, pictures a second, time left."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class RunProgress(TQDMProgressBar):
    """Lightning's bar over the whole run (its epoch), with pictures a second and short numbers.

    Args:
        refresh_rate: training steps between updates.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._mark = (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        self._mark = (time.monotonic(), module.images_seen)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, module)
        self._mark = (time.monotonic(), module.images_seen)  # evaluation is no training time

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, module).items() if k != "v_num"}
        metrics = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in metrics.items()}
        since, images = self._mark
        if module.images_seen > images:
            metrics["images/s"] = f"{(module.images_seen - images) / (time.monotonic() - since):.1f}"
        return metrics
