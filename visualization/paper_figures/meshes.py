"""Figures of MeshGAN: samples taken apart and seen from all sides (1, 4, 6), interpolations (5), truncation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.meshgan import TURNS, MeshGANModule
from renderers import Camera, TriangleMesh
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import BATCH, FigureFunction, FigureOptions, listed

PARTS = {"image": "render", "normal_map": "normals", "texture": "texture", "background": "background"}
NEAR = (-45.0, 0.0, 45.0)  # the viewpoints of Figure 5
BLOCKS = 2  # samples beside each other in Figure 6


def samples(module: MeshGANModule, choice: FigureOptions) -> Figure:
    """As of Figures 1 and 4: one sample a row."""
    images, parts = _taken_apart(module, choice.few)
    return Figure(
        "samples",
        images,
        (*parts, *map(degrees, TURNS)),
        tuple(map(str, choice.few)),
        f"Samples {listed(choice.few)}{' as picked' if choice.numbers else ''}: seen from a random viewpoint, normals, "
        f"texture, background, and five viewpoints about the vertical before white. {_style(module)}",
        blocks=(len(parts),),
    )


def random_samples(module: MeshGANModule, choice: FigureOptions) -> Figure:
    """As of Figure 6: the first samples, none picked, in the format of Figure 1."""
    count = BLOCKS * choice.rows
    rows, parts = _taken_apart(module, range(count))
    wide = len(rows[0])
    return Figure(
        "random",
        [[x for row in rows[i : i + BLOCKS] for x in row] for i in range(0, count, BLOCKS)],
        BLOCKS * (*parts, *map(degrees, TURNS)),
        caption=f"Samples 0 to {count - 1}, none left out, in the format of samples.png. {_style(module)}",
        blocks=tuple(wide * i for i in range(1, BLOCKS)),
    )


def interpolation(module: MeshGANModule, choice: FigureOptions) -> Figure:
    """As of Figure 5: from top to bottom latents on the straight line between two, from left to right three viewpoints."""
    pairs = choice.pairs[: max(1, choice.columns // len(NEAR))]
    blocks = []
    for pair in pairs:
        a, b = module.sample_latents(torch.tensor(pair))
        z = torch.lerp(a, b, torch.linspace(0, 1, choice.rows, device=a.device)[:, None])
        mesh = torch.no_grad()(module.truncated_scenes)(z, module.truncation).mesh
        blocks.append(from_azimuths(module, mesh, NEAR))
    named = ", ".join(f"{a} to {b}" for a, b in pairs)
    return Figure(
        "interpolation",
        [[x for block in blocks for x in block[i]] for i in range(choice.rows)],
        len(pairs) * tuple(map(degrees, NEAR)),
        caption=f"From top to bottom the latent goes in equal steps from one sample's to another's ({named}); from left to "
        f"right the viewpoint turns. {_style(module)}",
        blocks=tuple(len(NEAR) * i for i in range(1, len(pairs))),
    )


@torch.no_grad()
def truncation(module: MeshGANModule, choice: FigureOptions) -> Figure:
    """Samples from the front at several psi: 0 is the mean style, below it is its opposite."""
    z = module.sample_latents(torch.tensor(choice.few))
    columns = []
    for psi in choice.psis:
        scene = module.truncated_scenes(z, psi)
        front = Camera.orbit([0.0] * len(z), 0.0, module.views.fov)
        columns.append(module.draw(scene.mesh, front, scene.background, normals=False).image)
    layers = "all layers" if module.truncation_cutoff is None else f"the first {module.truncation_cutoff} layers"
    return Figure(
        "truncation",
        [list(row) for row in zip(*columns, strict=True)],
        tuple(f"ψ = {f'{psi:g}'.replace('-', '−')}" for psi in choice.psis),
        tuple(map(str, choice.few)),
        f"Samples {listed(choice.few)} from the front, the styles of {layers} brought toward the mean style by psi.",
    )


MESH_FIGURES: dict[str, FigureFunction] = {
    "samples": samples,
    "random": random_samples,
    "interpolation": interpolation,
    "truncation": truncation,
}


def _taken_apart(module: MeshGANModule, numbers: Sequence[int]) -> tuple[list[list[Tensor]], list[str]]:
    """For each sample its parts and its views from five sides; and the labels of the parts."""
    rows = []
    for start in range(0, len(numbers), BATCH):
        made = module.predict_step(torch.tensor(numbers[start : start + BATCH]), 0)
        mesh = TriangleMesh(made["vertices"], made["faces"], made["uvs"], made["texture"])
        parts = [made[name] for name in PARTS if name in made]
        turned = from_azimuths(module, mesh, TURNS)
        rows += [[*(part[i] for part in parts), *turned[i]] for i in range(len(mesh))]
    return rows, [label for name, label in PARTS.items() if name in made]


@torch.no_grad()
def from_azimuths(module: MeshGANModule, mesh: TriangleMesh, azimuths: Sequence[float]) -> list[list[Tensor]]:
    """For each mesh its images before white from viewpoints about the vertical."""
    white = torch.ones(len(mesh), 3, *[module.stage.resolution] * 2, device=mesh.device)
    views = [
        module.draw(mesh, Camera.orbit([azimuth] * len(mesh), 0.0, module.views.fov), white, normals=False).image
        for azimuth in azimuths
    ]
    return [list(row) for row in zip(*views, strict=True)]


def degrees(angle: float) -> str:
    """A label with a true minus."""
    return f"{angle:g}°".replace("-", "−")


def _style(module: MeshGANModule) -> str:
    return "Not truncated." if module.truncation is None else f"Truncated with psi {module.truncation:g}."
