"""How fast a training is, and how much of the GPU it needs, for the loggers."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs ``images_per_s``, of all ranks, over the last steps and without evaluations; on CUDA also ``gpu_gib``.

    ``gpu_gib`` is the most memory that tensors of the first rank have taken since the start, in GiB.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._marks = deque([(time.monotonic(), module.images_seen)], maxlen=trainer.log_every_n_steps + 1)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._marks.clear()
        self._marks.append((time.monotonic(), module.images_seen))

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._marks.append((time.monotonic(), module.images_seen))
        (since, before), (now, images) = self._marks[0], self._marks[-1]
        if now > since:
            module.log("images_per_s", (images - before) / (now - since), rank_zero_only=True)
        if module.device.type == "cuda":
            module.log("gpu_gib", torch.cuda.max_memory_allocated(module.device) / 2**30, rank_zero_only=True)
