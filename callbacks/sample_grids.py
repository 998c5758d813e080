"""Grids of samples during a run, always of the same latents and viewpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from callbacks.evaluations import is_fit_evaluation, kimg_and_step
from callbacks.loggers.guarded import guarded_loggers
from datamodules.base import to_float
from lightning_modules.base import batch_images
from utils.errors import check_number
from visualization.images import save_png, tile


class SampleGrids(pl.Callback):
    """Writes ``samples/<kimg>.png`` at each evaluation and ``reals.png`` once, and passes them to the loggers.

    The module's ``sample_grids`` may return further kinds, such as ``normals/<kimg>.png`` for shapes.

    Args:
        rows: rows of a grid; each has one viewpoint if the generator generates shapes.
        columns: samples per row.
        seed: seed of latents and viewpoints.
    """

    def __init__(self, rows: int = 4, columns: int = 8, seed: int = 0) -> None:
        check_number("rows", rows, at_least=1)
        check_number("columns", columns, at_least=1)
        check_number("seed", seed, at_least=0)
        self.rows, self.columns, self.seed = rows, columns, seed

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not is_fit_evaluation(trainer):
            return
        if not (Path(trainer.default_root_dir) / "reals.png").exists():
            self._save(trainer, pl_module, "reals", real_images(trainer, self.rows * self.columns), "reals.png")
        for kind, images in pl_module.sample_grids(self.rows, self.columns, self.seed).items():
            self._save(trainer, pl_module, kind, images, f"{kind}/{pl_module.kimg:09.2f}kimg.png")

    def _save(self, trainer: pl.Trainer, module: Any, kind: str, images: Float[Tensor, "N C H W"], name: str) -> None:
        grid = tile(images, self.columns)
        save_png(Path(trainer.default_root_dir) / name, grid)
        for logger in guarded_loggers(trainer):
            logger.log_image(kind, grid, kimg_and_step(module))


def real_images(trainer: Any, count: int) -> Float[Tensor, "N C H W"]:
    """Return the first real images, in [0, 1]: of the data module's reference, or else of its validation loader."""
    if hasattr(trainer.datamodule, "reference"):
        return to_float(trainer.datamodule.reference()[:count])
    images: list[Tensor] = []
    for batch in trainer.val_dataloaders:
        images += to_float(batch_images(batch).cpu())
        if len(images) >= count:
            break
    return torch.stack(images[:count])
