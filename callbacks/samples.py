"""Grids of samples over the course of a run: always the same latents from the same views."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.pictures import save_png, tile
from renderers import Camera


class SampleGrids(pl.Callback):
    """Writes ``samples/<kimg>.png`` and ``normals/<kimg>.png`` at each evaluation, and ``reals.png``.

    Each row has one viewpoint, each picture a shape of its own (as in section D of IG-GAN's supplement).

    Args:
        rows: viewpoints.
        columns: shapes a row.
        seed: of latents and views.
    """

    def __init__(self, rows: int = 4, columns: int = 8, seed: int = 0) -> None:
        self.rows, self.columns, self.seed = rows, columns, seed

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run and trainer.state.fn == "fit":
            self._write(trainer, module)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        if not (folder / "reals.png").exists():
            count = self.rows * self.columns
            save_png(folder / "reals.png", tile(trainer.datamodule.reference()[:count].float() / 255, self.columns))
        views = module.views.sample(self.rows, torch.Generator().manual_seed(self.seed))
        camera = Camera(
            views.azimuth.repeat_interleave(self.columns), views.elevation.repeat_interleave(self.columns), views.fov
        )
        shapes = module.shapes(module.latents(self.rows * self.columns, "grid", self.seed))
        drawn = module.draw(shapes, camera)
        name = f"{module.kimg:09.2f}kimg.png"
        save_png(folder / "samples" / name, tile(drawn.image, self.columns))
        save_png(folder / "normals" / name, tile(drawn.normal_map(), self.columns))
