"""Grids of samples over the course of a run: always the same latents from the same views."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from jaxtyping import Float
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.loggers.guarded import clock_of, guarded_loggers
from visualization.images import save_png, tile


class SampleGrids(pl.Callback):
    """Writes ``samples/<kimg>.png`` at each evaluation, and ``reals.png`` once.

    Also writes whatever else the module's ``sample_grids`` returns, such as ``normals/<kimg>.png`` of shapes, one viewpoint
    per row. The grids also go to the loggers.

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
            self._keep(trainer, module, "reals", trainer.datamodule.reference()[:count].float() / 255, "reals.png")
        for kind, images in module.sample_grids(self.rows, self.columns, self.seed).items():
            self._keep(trainer, module, kind, images, f"{kind}/{module.kimg:09.2f}kimg.png")

    def _keep(
        self, trainer: pl.Trainer, module: pl.LightningModule, kind: str, images: Float[Tensor, "N C H W"], name: str
    ) -> None:
        sheet = tile(images, self.columns)
        save_png(Path(trainer.default_root_dir) / name, sheet)
        for board in guarded_loggers(trainer):
            board.log_image(kind, sheet, clock_of(module))
