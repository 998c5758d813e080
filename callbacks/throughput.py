"""Training speed and GPU memory for the loggers."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs ``images_per_s`` of all ranks over the last steps, without evaluations; on CUDA also ``gpu_gib``.

    ``gpu_gib`` is the peak memory of tensors on the first rank since the start, in GiB.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # time, images seen

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._marks = deque([(time.monotonic(), pl_module.images_seen)], maxlen=trainer.log_every_n_steps + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._marks.clear()
        self._marks.append((time.monotonic(), pl_module.images_seen))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._marks.append((time.monotonic(), pl_module.images_seen))
        (start, images_before), (now, images) = self._marks[0], self._marks[-1]
        if now > start:
            pl_module.log("images_per_s", (images - images_before) / (now - start), rank_zero_only=True)
        if pl_module.device.type == "cuda":
            pl_module.log("gpu_gib", torch.cuda.max_memory_allocated(pl_module.device) / 2**30, rank_zero_only=True)
