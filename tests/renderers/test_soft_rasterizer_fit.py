"""Meshes can be optimized through the soft rasterizer but not through the crisp one (MeshGAN, section 8)."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import trimesh

from renderers.cameras import Camera
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer.renderer import SoftRasterizer

SIZE, STEPS = 48, 150
AZIMUTHS, ELEVATIONS = (
    [0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 20.0, 200.0],
    [0.0, 20.0, -20.0, 0.0, 20.0, -20.0, 70.0, -70.0],
)
HELD_OUT = Camera.orbit([30.0, 90.0, 150.0, 270.0], [10.0, -35.0, 40.0, 0.0], 10.0)


@dataclass
class Fit:
    """On held-out views: silhouette IoU and PSNR of the images in dB; the ratio of the last to the first loss."""

    iou: float
    psnr: float
    loss_ratio: float


def fit(margin: float, start: float) -> Fit:
    """Fit a grey ball of radius ``start``, vertices and colours, to images and silhouettes of a bumpy coloured one."""
    ball = trimesh.creation.icosphere(3)
    unit = torch.tensor(np.array(ball.vertices), dtype=torch.float32)
    faces = torch.tensor(np.array(ball.faces))
    x, y, z = unit.unbind(-1)
    radius = 0.62 + 0.15 * torch.sin(3 * x + 1) * torch.cos(2 * y) + 0.1 * z * y
    target = TriangleMesh(
        (unit * radius[:, None] * torch.tensor([1.1, 0.8, 1.0]))[None],
        faces,
        colors=torch.stack([0.5 + 0.4 * torch.sin(4 * x), 0.5 + 0.4 * torch.cos(3 * y), 0.5 + 0.4 * z], -1)[None],
    )
    camera = Camera.orbit(AZIMUTHS, ELEVATIONS, 10.0)
    background = torch.full((8, 3, SIZE, SIZE), 0.1)
    renderer = SoftRasterizer(SIZE, margin=margin, normals=False)

    def render(mesh: TriangleMesh, renderer: SoftRasterizer, camera: Camera):
        count = len(camera)
        many = TriangleMesh(mesh.vertices.expand(count, -1, -1), mesh.faces, colors=mesh.colors.expand(count, -1, -1))
        return renderer(many, camera, background[:1].expand(count, -1, -1, -1))

    target_views = render(target, renderer, camera)
    offsets = torch.zeros_like(unit).requires_grad_()
    colors = torch.full((len(unit), 3), 0.5).requires_grad_()
    edges = torch.tensor(np.array(ball.edges_unique))
    optimizer = torch.optim.Adam([{"params": [offsets], "lr": 0.01}, {"params": [colors], "lr": 0.03}])
    losses = []
    for _ in range(STEPS):
        mesh = TriangleMesh((unit * start + offsets)[None], faces, colors=colors[None])
        rendered = render(mesh, renderer, camera)
        smoothness = (offsets[edges[:, 0]] - offsets[edges[:, 1]]).square().sum(-1).mean()
        loss = (rendered.image - target_views.image).square().mean() + (
            rendered.alpha - target_views.alpha
        ).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + 2 * smoothness).backward()
        optimizer.step()

    with torch.no_grad():
        crisp = SoftRasterizer(SIZE * 2, margin=0, normals=False)
        background = torch.full((8, 3, SIZE * 2, SIZE * 2), 0.1)
        mesh = TriangleMesh((unit * start + offsets)[None], faces, colors=colors[None])
        result, expected = render(mesh, crisp, HELD_OUT), render(target, crisp, HELD_OUT)
        both, either = (result.alpha * expected.alpha).sum(), torch.maximum(result.alpha, expected.alpha).sum()
        psnr = -10 * (result.image - expected.image).square().mean().log10()
    return Fit(float(both / either), float(psnr), losses[-1] / losses[0])


@pytest.mark.parametrize("start", [0.3, 0.8])
def test_a_bumpy_ball_is_recovered_only_with_a_margin(start):
    # From a radius near the target's the crisp renderer makes some progress through the gradient of interior colours.
    soft, crisp = fit(1.0, start), fit(0.0, start)
    print(f"from radius {start}: margin 1 {soft}, margin 0 {crisp}")
    assert soft.iou > 0.96 and soft.psnr > 26
    assert crisp.iou < 0.6 and crisp.psnr < 16
