"""Figures of generators of voxels, as in section D of IG-GAN's supplement, and its Figure 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_modules import IGGANModule, VoxelGANModule
from lightning_modules.generative import VoxelGenerativeModule
from renderers import Camera, Renderer, Rendering, ViewDistribution, VoxelGrid
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import (
    BATCH,
    FigureFunction,
    FigureOptions,
    FigureUnavailableError,
    in_rows,
    listed,
    slerp,
    zoomed,
)

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
Kind = Literal["renders", "normal maps"]
GREY: Kind = "renders"
NORMALS: Kind = "normal maps"


def samples(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """Random samples, a viewpoint a row."""
    return _grid(module, choice, "samples", GREY)


def normals(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """The same samples from the same viewpoints as normal maps."""
    return _grid(module, choice, "normals", NORMALS)


def views(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """One sample a row, seen all around at the middle elevation."""
    return _around(module, choice, "views", GREY)


def view_normals(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """The same as normal maps."""
    return _around(module, choice, "view_normals", NORMALS)


def thresholds(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """As of Figure 4: the continuous sample by the renderer that passes gradients, and several thresholds by the other."""
    numbers = choice.few
    shapes, camera = _shapes(module, numbers), row_views(_views(module, choice), len(numbers), 1, choice.seed)
    label, renderer = _continuous(module)
    columns = [] if renderer is None else [torch.no_grad()(renderer)(shapes, camera.to(module.device)).image]
    columns += [module.renderer(shapes.binarize(t), camera.to(module.device)).image for t in THRESHOLDS]
    labels = [label] * (renderer is not None) + [f"> {t:g}" for t in THRESHOLDS]
    return Figure(
        "thresholds",
        [list(row) for row in zip(*(zoomed(x, choice.zoom) for x in columns), strict=True)],
        tuple(labels),
        tuple(map(str, numbers)),
        f"Continuous samples {listed(numbers)}"
        f"{f', drawn by the {label} renderer,' if renderer is not None else ''} and their solids at several thresholds.",
        blocks=(1,) if renderer is not None else (),
    )


def interpolation(module: VoxelGenerativeModule, choice: FigureOptions) -> Figure:
    """Between samples, a viewpoint a row."""
    pairs = choice.pairs
    ends = [module.sample_latents(torch.tensor(pair)) for pair in pairs]
    z = torch.cat([slerp(a, b, choice.columns) for a, b in ends])
    camera = row_views(_views(module, choice), len(pairs), choice.columns, choice.seed)
    images = _draw(module, _grids(module, z), camera, GREY)
    return Figure(
        "interpolation",
        in_rows(zoomed(images, choice.zoom), choice.columns),
        rows=tuple(f"{a} – {b}" for a, b in pairs),
        caption="Along each row the latent turns from one sample's to another's; one viewpoint a row.",
    )


VOXEL_FIGURES: dict[str, FigureFunction] = {
    "samples": samples,
    "normals": normals,
    "views": views,
    "view_normals": view_normals,
    "thresholds": thresholds,
    "interpolation": interpolation,
}


def row_views(views: ViewDistribution, rows: int, columns: int, seed: int) -> Camera:
    """A viewpoint for each row, the same in every figure; given for images in reading order."""
    camera = views.sample(rows, torch.Generator().manual_seed(seed))
    return Camera(camera.azimuth.repeat_interleave(columns), camera.elevation.repeat_interleave(columns), views.fov)


def view_labels(camera: Camera, columns: int) -> tuple[str, ...]:
    """Azimuth and elevation of each row's viewpoint."""
    angles = zip(camera.azimuth[::columns].tolist(), camera.elevation[::columns].tolist(), strict=True)
    return tuple(f"{a:.0f}°\n{e:.0f}°".replace("-", "−") for a, e in angles)


def show(renderer: Renderer, shapes: VoxelGrid, camera: Camera, kind: Kind) -> Float[Tensor, "N C h w"]:
    """Solids as images of one kind.

    Raises:
        FigureUnavailableError: a renderer that gives no normals, as those of volumes in colour.
    """
    images = []
    for start in range(0, len(camera), BATCH):
        part = slice(start, start + BATCH)
        color = None if shapes.color is None else shapes.color[part]
        drawn: Rendering = renderer(VoxelGrid(shapes.occupancy[part], color), camera[part])
        if kind == NORMALS and drawn.normals is None:
            raise FigureUnavailableError(f"{type(renderer).__name__} gives no normals")
        images.append(drawn.normal_map() if kind == NORMALS else drawn.image)
    return torch.cat(images)


def _views(module: VoxelGenerativeModule, choice: FigureOptions) -> ViewDistribution:
    return choice.views or module.views


def _shapes(module: VoxelGenerativeModule, numbers: list[int]) -> VoxelGrid:
    return _grids(module, module.sample_latents(torch.tensor(numbers)))


def _grids(module: VoxelGenerativeModule, z: Tensor) -> VoxelGrid:
    grids = [module.shapes(part) for part in z.split(BATCH)]
    color = None if grids[0].color is None else torch.cat([g.color for g in grids])
    return VoxelGrid(torch.cat([g.occupancy for g in grids]), color)


def _draw(module: VoxelGenerativeModule, shapes: VoxelGrid, camera: Camera, kind: Kind) -> Tensor:
    return torch.no_grad()(show)(module.renderer, shapes.binarize(module.threshold), camera.to(module.device), kind)


def _grid(module: VoxelGenerativeModule, choice: FigureOptions, name: str, kind: Kind) -> Figure:
    camera = row_views(_views(module, choice), choice.rows, choice.columns, choice.seed)
    images = zoomed(_draw(module, _shapes(module, list(range(len(camera)))), camera, kind), choice.zoom)
    caption = f"Random samples as {kind}; each row has one viewpoint (azimuth, elevation)."
    return Figure(name, in_rows(images, choice.columns), rows=view_labels(camera, choice.columns), caption=caption)


def _around(module: VoxelGenerativeModule, choice: FigureOptions, name: str, kind: Kind) -> Figure:
    numbers, seen = choice.few, _views(module, choice)
    turn = torch.arange(choice.columns) * (360 / choice.columns)
    elevation = sum(seen.elevation) / 2
    camera = Camera.orbit(turn.repeat(len(numbers)), elevation, seen.fov)
    shapes = _shapes(module, numbers)
    color = None if shapes.color is None else shapes.color.repeat_interleave(choice.columns, 0)
    several = replace(shapes, occupancy=shapes.occupancy.repeat_interleave(choice.columns, 0), color=color)
    images = _draw(module, several, camera, kind)
    caption = f"Samples {listed(numbers)} as {kind} from {elevation:g}° elevation, by azimuth."
    labels = tuple(f"{angle:g}°" for angle in turn.tolist())
    return Figure(name, in_rows(zoomed(images, choice.zoom), choice.columns), labels, tuple(map(str, numbers)), caption)


def _continuous(module: VoxelGenerativeModule) -> tuple[str, Renderer | None]:
    """The renderer that passes gradients, and what it is called."""
    if isinstance(module, IGGANModule):
        return "neural", module.neural_renderer
    if isinstance(module, VoxelGANModule):
        return "volume", module.differentiable_renderer
    return "", None
