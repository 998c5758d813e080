"""Solids, meshes and comparisons for tests of the renderers."""

from __future__ import annotations

import math

import torch

from renderers import Rendering, TriangleMesh, VoxelGrid


def chair(size: int = 64, leg: int = 1) -> torch.Tensor:
    """Return a solid ``(D, D, D)`` without symmetry: thin legs, one arm rest, a ball on one corner of the back."""
    solid = torch.zeros(size, size, size)
    s = size / 64

    def box(x0, x1, y0, y1, z0, z1):
        spans = [(round(a * s), max(round(b * s), round(a * s) + 1)) for a, b in ((z0, z1), (y0, y1), (x0, x1))]
        solid[tuple(slice(a, b) for a, b in spans)] = 1

    box(14, 50, 26, 29, 12, 48)
    box(14, 50, 26, 58, 12, 15)
    box(14, 16, 26, 40, 12, 48)
    for x, z in ((14, 12), (50 - leg, 12), (14, 48 - leg), (50 - leg, 48 - leg)):
        box(x, x + leg, 4, 26, z, z + leg)
    axis = torch.arange(size) / s
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    solid[(x - 46) ** 2 + (y - 57) ** 2 + (z - 14) ** 2 < 36] = 1
    return solid


def blob(size: int = 64, seed: int = 0) -> torch.Tensor:
    """Return a lumpy solid ``(D, D, D)`` with slanted surfaces."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, 5, 5, 5, generator=generator)
    noise = torch.nn.functional.interpolate(noise, size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0]
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (noise * 0.3 + 0.65 > (x * x + y * y + z * z).sqrt()).float()


def grids(*solids: torch.Tensor) -> VoxelGrid:
    return VoxelGrid(torch.stack(solids)[:, None])


def ball_mesh(
    batch: int = 1, rings: int = 48, radius: float = 0.6, centre: tuple[float, ...] = (0.2, 0.1, -0.15)
) -> TriangleMesh:
    """Return an off-centre sphere. u follows the azimuth, v runs from the north pole down; the texture is smooth in both."""
    theta, phi = torch.meshgrid(
        torch.linspace(0, math.pi, rings + 1), torch.linspace(0, 2 * math.pi, 2 * rings + 1), indexing="ij"
    )
    direction = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], -1).reshape(-1, 3)
    uvs = torch.stack([phi / (2 * math.pi), theta / math.pi], -1).reshape(-1, 2)
    a = (torch.arange(rings)[:, None] * (2 * rings + 1) + torch.arange(2 * rings)).reshape(-1)
    b, c, d = a + 2 * rings + 1, a + 2 * rings + 2, a + 1
    faces = torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)])
    u = ((torch.arange(256) + 0.5) / 256).expand(128, 256)
    v = ((torch.arange(128) + 0.5) / 128)[:, None].expand(128, 256)
    texture = ball_colour(u, v)
    return TriangleMesh(
        (direction * radius + torch.tensor(centre)).expand(batch, -1, -1),
        faces,
        uvs,
        texture.expand(batch, -1, -1, -1),
        direction.expand(batch, -1, -1),
    )


def ball_colour(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return the texture's colours ``(3, ...)``; periodic in u."""
    return torch.stack([0.5 + 0.4 * (2 * math.pi * u).sin(), v, 0.5 + 0.4 * (2 * math.pi * u).cos()])


def coverage_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the IoU of coverages over the whole batch, without a threshold, since coverages of 1/2 are common."""
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum())


def mean_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the mean absolute difference in units of 1/255."""
    return float((a - b).abs().mean() * 255)


def both_opaque(a: Rendering, b: Rendering) -> torch.Tensor:
    """Return a mask ``(B, 1, H, W)`` of the pixels that both cover entirely."""
    return (a.alpha == 1) & (b.alpha == 1)


def angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the angles ``(B, 1, H, W)`` between unit vectors, in degrees."""
    return torch.rad2deg((a * b).sum(1, keepdim=True).clamp(-1, 1).acos())
