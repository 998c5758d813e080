"""Figures of MeshGAN: samples with their parts and from several sides (1, 4, 6), interpolation (5), truncation, and the
layers of the soft rasterizer (3 a).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.meshgan import TURNTABLE_AZIMUTHS, MeshGANModule
from renderers import Camera, SoftRasterizer, TriangleMesh
from renderers.base import composite
from renderers.soft_rasterizer import render_layers
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import (
    BATCH,
    FigureFunction,
    FigureOptions,
    FigureUnavailableError,
    comma_separated,
    transpose,
    with_minus,
)

PARTS = {"image": "render", "normal_map": "normals", "texture": "texture", "background": "background"}
INTERPOLATION_AZIMUTHS = (-45.0, 0.0, 45.0)  # degrees, the viewpoints of Figure 5
BLOCKS = 2  # samples per row in Figure 6


def samples(module: MeshGANModule, options: FigureOptions) -> Figure:
    """Show one sample per row, as in Figures 1 and 4."""
    numbers = options.row_numbers
    images, parts = _parts_and_views(module, numbers)
    return Figure(
        "samples",
        images,
        (*parts, *map(degrees, TURNTABLE_AZIMUTHS)),
        tuple(map(str, numbers)),
        f"Samples {comma_separated(numbers)}{' as picked' if options.numbers else ''}: from a random viewpoint, normals, "
        f"texture, background, and five viewpoints about the vertical on white. {_truncation_note(module)}",
        blocks=(len(parts),),
    )


def random_samples(module: MeshGANModule, options: FigureOptions) -> Figure:
    """Show the first samples, not picked, in the format of Figure 1, as in Figure 6."""
    count = BLOCKS * options.rows
    rows, parts = _parts_and_views(module, range(count))
    block_columns = len(rows[0])
    return Figure(
        "random",
        [[x for row in rows[i : i + BLOCKS] for x in row] for i in range(0, count, BLOCKS)],
        BLOCKS * (*parts, *map(degrees, TURNTABLE_AZIMUTHS)),
        caption=f"All samples from 0 to {count - 1}, in the format of samples.png. {_truncation_note(module)}",
        blocks=tuple(block_columns * i for i in range(1, BLOCKS)),
    )


def interpolation(module: MeshGANModule, options: FigureOptions) -> Figure:
    """Interpolate latents linearly from top to bottom, with three viewpoints from left to right, as in Figure 5."""
    azimuths = INTERPOLATION_AZIMUTHS
    pairs = options.pairs[: max(1, options.columns // len(azimuths))]
    blocks = []
    for pair in pairs:
        a, b = module.sample_latents(torch.tensor(pair))
        z = torch.lerp(a, b, torch.linspace(0, 1, options.rows, device=a.device)[:, None])
        blocks.append(render_from(module, module.truncated_scenes(z, module.truncation).mesh, azimuths))
    pair_names = ", ".join(f"{a} to {b}" for a, b in pairs)
    return Figure(
        "interpolation",
        [[x for block in blocks for x in block[i]] for i in range(options.rows)],
        len(pairs) * tuple(map(degrees, azimuths)),
        caption=f"Linear interpolation of latents from top to bottom ({pair_names}); three viewpoints from left to right. "
        f"{_truncation_note(module)}",
        blocks=tuple(len(azimuths) * i for i in range(1, len(pairs))),
    )


@torch.no_grad()
def truncation(module: MeshGANModule, options: FigureOptions) -> Figure:
    """Show samples from the front for several ψ: 0 is the mean style, negative values are its opposites."""
    numbers = options.row_numbers
    z = module.sample_latents(torch.tensor(numbers))
    columns = []
    for psi in options.psis:
        scene = module.truncated_scenes(z, psi)
        front = Camera.orbit([0.0] * len(z), 0.0, module.views.fov)
        columns.append(module.render(scene.mesh, front, scene.background, normals=False).image)
    layers = "all layers" if module.truncation_cutoff is None else f"the first {module.truncation_cutoff} layers"
    return Figure(
        "truncation",
        transpose(columns),
        tuple(f"ψ = {with_minus(f'{psi:g}')}" for psi in options.psis),
        tuple(map(str, numbers)),
        f"Samples {comma_separated(numbers)} from the front; the styles of {layers} are truncated by psi.",
    )


@torch.no_grad()
def layers(module: MeshGANModule, options: FigureOptions) -> Figure:
    """Show the crisp and the soft layer of samples from the front and their blend, as in Figure 3 a.

    Raises:
        FigureUnavailableError: a renderer without a soft layer.
    """
    renderer = copy.copy(module.renderer)
    if not isinstance(renderer, SoftRasterizer) or renderer.margin == 0:
        raise FigureUnavailableError("the renderer has no soft layer (its margin is 0)")
    renderer.image_size = module.stage.resolution
    numbers = options.row_numbers
    scene = module.truncated_scenes(module.sample_latents(torch.tensor(numbers)), module.truncation)
    camera = Camera.orbit([0.0] * len(numbers), 0.0, module.views.fov)
    parts = render_layers(renderer, scene.mesh, camera)
    white = torch.ones_like(scene.background)
    columns = {
        "crisp": composite(parts.crisp, parts.crisp_alpha, white),
        "soft": composite(parts.soft, parts.soft_alpha, white),
        "soft alpha": parts.soft_alpha,
        "blended": parts.blend(white),
        "on background": parts.blend(scene.background),
    }
    return Figure(
        "layers",
        transpose(columns.values()),
        tuple(columns),
        tuple(map(str, numbers)),
        f"Samples {comma_separated(numbers)} from the front at {renderer.image_size}²: the crisp layer, the soft layer "
        f"(triangles extended by {renderer.margin:g} pixels where nothing hides them), its alpha, and the blend of both "
        f"layers, on white and on the background. {_truncation_note(module)}",
    )


MESH_FIGURES: dict[str, FigureFunction] = {
    "samples": samples,
    "random": random_samples,
    "interpolation": interpolation,
    "truncation": truncation,
    "layers": layers,
}


def _parts_and_views(module: MeshGANModule, numbers: Sequence[int]) -> tuple[list[list[Tensor]], list[str]]:
    """Return one row per sample, its parts and its views from five sides; and the labels of the parts."""
    rows, labels = [], []
    for start in range(0, len(numbers), BATCH):
        sample = module.predict_step(torch.tensor(numbers[start : start + BATCH]), 0)
        mesh = TriangleMesh(sample["vertices"], sample["faces"], sample["uvs"], sample["texture"])
        parts = [sample[name] for name in PARTS if name in sample]
        labels = [label for name, label in PARTS.items() if name in sample]
        views = render_from(module, mesh, TURNTABLE_AZIMUTHS)
        rows += [[*(part[i] for part in parts), *views[i]] for i in range(len(mesh))]
    return rows, labels


@torch.no_grad()
def render_from(module: MeshGANModule, mesh: TriangleMesh, azimuths: Sequence[float]) -> list[list[Tensor]]:
    """Render each mesh on white from several azimuths; one row per mesh."""
    white = torch.ones(len(mesh), 3, *[module.stage.resolution] * 2, device=mesh.device)
    return transpose(
        module.render(mesh, Camera.orbit([azimuth] * len(mesh), 0.0, module.views.fov), white, normals=False).image
        for azimuth in azimuths
    )


def degrees(angle: float) -> str:
    """Format an angle as a label."""
    return with_minus(f"{angle:g}°")


def _truncation_note(module: MeshGANModule) -> str:
    return "Not truncated." if module.truncation is None else f"Truncated with psi {module.truncation:g}."
