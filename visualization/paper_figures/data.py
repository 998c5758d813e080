"""Figures of the data in the format of the samples, for comparison."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from datamodules import ShapeNetRenderDataModule
from lightning_modules.generative import row_views
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import (
    FigureFunction,
    FigureOptions,
    FigureUnavailableError,
    center_crop,
    in_rows,
)
from visualization.paper_figures.voxels import NORMALS, RENDERS, ImageKind, join_grids, render_grids, view_labels


def images(data: LightningDataModule, options: FigureOptions) -> Figure:
    """Show held-out shapes like samples; for image data, the first held-out images."""
    if isinstance(data, ShapeNetRenderDataModule):
        return _shapes(data, options, "data", RENDERS)
    if not hasattr(data, "reference"):
        raise FigureUnavailableError(f"{type(data).__name__} has neither shapes nor images to show")
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.state.fn = TrainerFn.VALIDATING  # loads only the held-out images
    data.prepare_data()
    real = data.reference()[: options.rows * options.columns].float() / 255
    complete = max(len(real) // options.columns, 1) * options.columns
    return Figure(
        "data", in_rows(real[:complete], options.columns), caption="Real images, from the reference set of FID."
    )


def normals(data: LightningDataModule, options: FigureOptions) -> Figure:
    """Show the same shapes as normal maps."""
    if not isinstance(data, ShapeNetRenderDataModule):
        raise FigureUnavailableError("the data are images, which have no normals")
    return _shapes(data, options, "data_normals", NORMALS)


DATA_FIGURES: dict[str, FigureFunction] = {"data": images, "data_normals": normals}


@torch.no_grad()
def _shapes(data: ShapeNetRenderDataModule, options: FigureOptions, name: str, kind: ImageKind) -> Figure:
    shapes, count = data.reference_shapes, options.rows * options.columns
    # Evenly spaced indices; repeated if there are too few shapes.
    indices = [i * len(shapes) // count if len(shapes) >= count else i % len(shapes) for i in range(count)]
    camera = row_views(options.view_distribution(data.reference_views), options.rows, options.columns, options.seed)
    grids = join_grids([shapes[i].voxels for i in indices])
    rendered = center_crop(render_grids(data.renderer, grids, camera, kind), options.zoom)
    caption = f"Held-out shapes of the data as {kind}; {options.view_note}."
    return Figure(name, in_rows(rendered, options.columns), rows=view_labels(camera, options.columns), caption=caption)
