"""Grids of samples over the course of a run: always the same latents from the same views."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.pictures import save_png, tile


class SampleGrids(pl.Callback):
    """Writes ``samples/<kimg>.png`` at each evaluation, and ``reals.png`` once.

    Beside them stands what else a module's ``sheets`` show: ``normals/<kimg>.png`` of shapes, one viewpoint a row.

    Args:
        rows: viewpoints, if the generator makes shapes.
        columns: samples a row.
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
        for kind, pictures in module.sheets(self.rows, self.columns, self.seed).items():
            save_png(folder / kind / f"{module.kimg:09.2f}kimg.png", tile(pictures, self.columns))
