"""Figures of voxel generators, as in section D of IG-GAN's supplement and its Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_modules import IGGANModule, VoxelGANModule
from lightning_modules.generative import row_views
from lightning_modules.voxel_generative import VoxelGenerativeModule
from renderers import Camera, Renderer, Rendering, ViewDistribution, VoxelGrid
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import (
    BATCH,
    FigureFunction,
    FigureOptions,
    FigureUnavailableError,
    center_crop,
    comma_separated,
    in_rows,
    slerp,
    transpose,
    with_minus,
)

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
ImageKind = Literal["renders", "normal maps"]
RENDERS: ImageKind = "renders"
NORMALS: ImageKind = "normal maps"


def samples(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Show random samples, one viewpoint per row."""
    return _sample_grid(module, options, "samples", RENDERS)


def normals(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Show the normal maps of the same samples from the same viewpoints."""
    return _sample_grid(module, options, "normals", NORMALS)


def views(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Show one sample per row from all sides at the middle elevation."""
    return _turntable(module, options, "views", RENDERS)


def view_normals(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Show the normal maps of ``views``."""
    return _turntable(module, options, "view_normals", NORMALS)


def thresholds(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Show continuous samples through the differentiable renderer, then thresholded ones, as in Figure 4."""
    numbers = options.row_numbers
    shapes = _generate(module, module.sample_latents(torch.tensor(numbers)))
    camera = row_views(_views(module, options), len(numbers), 1, options.seed).to(module.device)
    columns = [module.renderer(shapes.binarize(t), camera).image for t in THRESHOLDS]
    labels = [f"> {t:g}" for t in THRESHOLDS]
    rendered_by = ""
    label, renderer = _differentiable_renderer(module)
    if renderer is not None:
        with torch.no_grad():
            columns.insert(0, renderer(shapes, camera).image)
        labels.insert(0, label)
        rendered_by = f", rendered by the {label} renderer,"
    return Figure(
        "thresholds",
        transpose(center_crop(x, options.zoom) for x in columns),
        tuple(labels),
        tuple(map(str, numbers)),
        f"Continuous samples {comma_separated(numbers)}{rendered_by} and their solids at several thresholds.",
        blocks=() if renderer is None else (1,),
    )


def interpolation(module: VoxelGenerativeModule, options: FigureOptions) -> Figure:
    """Interpolate between samples, one viewpoint per row."""
    pairs = options.pairs
    ends = [module.sample_latents(torch.tensor(pair)) for pair in pairs]
    z = torch.cat([slerp(a, b, options.columns) for a, b in ends])
    camera = row_views(_views(module, options), len(pairs), options.columns, options.seed)
    images = _render_solids(module, _generate(module, z), camera, RENDERS)
    return Figure(
        "interpolation",
        in_rows(center_crop(images, options.zoom), options.columns),
        rows=tuple(f"{a} – {b}" for a, b in pairs),
        caption=f"Each row interpolates spherically between the latents of two samples; {options.view_note}.",
    )


VOXEL_FIGURES: dict[str, FigureFunction] = {
    "samples": samples,
    "normals": normals,
    "views": views,
    "view_normals": view_normals,
    "thresholds": thresholds,
    "interpolation": interpolation,
}


def view_labels(camera: Camera, columns: int) -> tuple[str, ...]:
    """Return azimuth and elevation of each row's viewpoint as labels."""
    angles = zip(camera.azimuth[::columns].tolist(), camera.elevation[::columns].tolist(), strict=True)
    return tuple(with_minus(f"{a:.0f}°\n{e:.0f}°") for a, e in angles)


def join_grids(grids: Sequence[VoxelGrid]) -> VoxelGrid:
    """Return grids, all or none of which have colours, as one batch."""
    colors = [grid.color for grid in grids if grid.color is not None]
    return VoxelGrid(torch.cat([grid.occupancy for grid in grids]), torch.cat(colors) if colors else None)


def render_grids(renderer: Renderer, shapes: VoxelGrid, camera: Camera, kind: ImageKind) -> Float[Tensor, "N C h w"]:
    """Render voxel grids as images of one kind.

    Raises:
        FigureUnavailableError: a renderer without normals, such as one of coloured volumes.
    """
    images = []
    for start in range(0, len(camera), BATCH):
        part = slice(start, start + BATCH)
        color = None if shapes.color is None else shapes.color[part]
        rendering: Rendering = renderer(VoxelGrid(shapes.occupancy[part], color), camera[part])
        if kind == RENDERS:
            images.append(rendering.image)
            continue
        if rendering.normals is None:
            raise FigureUnavailableError(f"{type(renderer).__name__} renders no normals")
        images.append(rendering.normal_map())
    return torch.cat(images)


def _views(module: VoxelGenerativeModule, options: FigureOptions) -> ViewDistribution:
    return options.view_distribution(module.views)


def _generate(module: VoxelGenerativeModule, z: Tensor) -> VoxelGrid:
    return join_grids([module.shapes(part) for part in z.split(BATCH)])


@torch.no_grad()
def _render_solids(module: VoxelGenerativeModule, shapes: VoxelGrid, camera: Camera, kind: ImageKind) -> Tensor:
    return render_grids(module.renderer, shapes.binarize(module.threshold), camera.to(module.device), kind)


def _sample_grid(module: VoxelGenerativeModule, options: FigureOptions, name: str, kind: ImageKind) -> Figure:
    camera = row_views(_views(module, options), options.rows, options.columns, options.seed)
    shapes = _generate(module, module.sample_latents(torch.arange(len(camera))))
    images = center_crop(_render_solids(module, shapes, camera, kind), options.zoom)
    caption = f"Random samples as {kind}; {options.view_note}."
    return Figure(name, in_rows(images, options.columns), rows=view_labels(camera, options.columns), caption=caption)


def _turntable(module: VoxelGenerativeModule, options: FigureOptions, name: str, kind: ImageKind) -> Figure:
    numbers, views = options.row_numbers, _views(module, options)
    azimuth = torch.arange(options.columns) * (360 / options.columns)
    elevation = sum(views.elevation) / 2
    camera = Camera.orbit(azimuth.repeat(len(numbers)), elevation, views.fov)
    shapes = _generate(module, module.sample_latents(torch.tensor(numbers)))
    color = None if shapes.color is None else shapes.color.repeat_interleave(options.columns, 0)
    repeated = replace(shapes, occupancy=shapes.occupancy.repeat_interleave(options.columns, 0), color=color)
    images = center_crop(_render_solids(module, repeated, camera, kind), options.zoom)
    caption = f"Samples {comma_separated(numbers)} as {kind} from {elevation:g}° elevation, by azimuth."
    labels = tuple(f"{angle:g}°" for angle in azimuth.tolist())
    return Figure(name, in_rows(images, options.columns), labels, tuple(map(str, numbers)), caption)


def _differentiable_renderer(module: VoxelGenerativeModule) -> tuple[str, Renderer | None]:
    """Return the label and the differentiable renderer of a module, if it has one."""
    if isinstance(module, IGGANModule):
        return "neural", module.neural_renderer
    if isinstance(module, VoxelGANModule):
        return "volume", module.differentiable_renderer
    return "", None
