"""Figures of the data, in the format of the samples': what a generator is to be compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from datamodules import ShapeNetRenderDataModule
from renderers import VoxelGrid
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import FigureOptions, FigureUnavailableError, in_rows, zoomed
from visualization.paper_figures.voxels import GREY, NORMALS, Kind, row_views, show, view_labels


def images(data: LightningDataModule, choice: FigureOptions) -> Figure:
    """Held-out shapes as samples are shown; of data that are images, the first held-out ones."""
    if isinstance(data, ShapeNetRenderDataModule):
        return _shapes(data, choice, "data", GREY)
    if not hasattr(data, "reference"):
        raise FigureUnavailableError(f"{type(data).__name__} has neither shapes nor images to show")
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.state.fn = TrainerFn.VALIDATING  # held-out images are enough
    data.prepare_data()
    real = data.reference()[: choice.rows * choice.columns].float() / 255
    whole = max(len(real) // choice.columns, 1) * choice.columns
    return Figure("data", in_rows(real[:whole], choice.columns), caption="Real images, those that FID compares with.")


def normals(data: LightningDataModule, choice: FigureOptions) -> Figure:
    """The same shapes as normal maps."""
    if not isinstance(data, ShapeNetRenderDataModule):
        raise FigureUnavailableError("the data are images, which have no normals")
    return _shapes(data, choice, "data_normals", NORMALS)


DATA_FIGURES: dict[str, Callable[[LightningDataModule, FigureOptions], Figure]] = {
    "data": images,
    "data_normals": normals,
}


@torch.no_grad()
def _shapes(data: ShapeNetRenderDataModule, choice: FigureOptions, name: str, kind: Kind) -> Figure:
    shapes, count = data.reference_shapes, choice.rows * choice.columns
    spread = [i * len(shapes) // count if len(shapes) >= count else i % len(shapes) for i in range(count)]
    camera = row_views(choice.views or data.reference_views, choice.rows, choice.columns, choice.seed)
    grids = VoxelGrid(torch.cat([shapes[i].voxels.occupancy.float() for i in spread]))
    drawn = in_rows(zoomed(show(data.renderer, grids, camera, kind), choice.zoom), choice.columns)
    caption = f"Held-out shapes of the data as {kind}; each row has one viewpoint (azimuth, elevation)."
    return Figure(name, drawn, rows=view_labels(camera, choice.columns), caption=caption)
