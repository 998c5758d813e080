"""Colours of points on the surface of voxel grids."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from renderers.cameras import Camera

FAINT = 0.05  # interpolated occupancy below which a point is off the surface, as at the centre of a silhouette's pixel


def voxel_colors(
    solid: Bool[Tensor, "B 1 D D D"], color: Float[Tensor, "B C D D D"], points: Float[Tensor, "B N 3"]
) -> Float[Tensor, "B C N"]:
    """Return the mean colour of the solid voxels around each point, with trilinear weights; empty voxels do not count.

    A vertex of marching cubes is midway between a solid and an empty voxel and has the colour of the solid one. Points
    a voxel or more from every solid voxel take the mean of the blocks of 4³ voxels around them.

    Args:
        solid: which voxels are solid.
        color: of every voxel; C is any number.
        points: finite, in the world frame.
    """
    occupancy = solid.to(color.dtype)
    weighted = torch.cat([occupancy * color, occupancy], 1)
    wide = F.avg_pool3d(weighted, min(4, color.shape[-1]), ceil_mode=True)
    grid = 2 * points.to(color.dtype)[:, None, None]
    near, far = (F.grid_sample(x, grid, align_corners=False)[:, :, 0, 0] for x in (weighted, wide))
    sums = torch.where(near[:, -1:] < FAINT, far, near)
    return sums[:, :-1] / sums[:, -1:].clamp(min=1e-6)


def surface_colors(
    solid: Bool[np.ndarray, "D D D"], color: Float[Tensor, "C D D D"], vertices: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "V 3"]:
    """Return :func:`voxel_colors` of the vertices of one solid; grey is repeated to RGB."""
    points = torch.from_numpy(vertices)[None]
    colors = voxel_colors(torch.from_numpy(solid)[None, None], color[None], points)[0].T.expand(-1, 3)
    return np.ascontiguousarray(colors.numpy())


def visible_colors(
    solid: Bool[Tensor, "B 1 D D D"],
    color: Float[Tensor, "B C D D D"],
    depth: Float[Tensor, "B 1 S S"],
    camera: Camera,
) -> Float[Tensor, "B C S S"]:
    """Return :func:`voxel_colors` of the surface at each pixel's centre, 0 where ``depth`` is inf."""
    count, size = len(depth), depth.shape[-1]
    x = (torch.arange(size, device=depth.device, dtype=depth.dtype) + 0.5) * 2 / size - 1
    rows, columns = torch.meshgrid(-x, x, indexing="ij")
    covered = depth.isfinite()
    z = torch.where(covered, depth, 1.0).view(count, -1)
    pixels = torch.stack([columns.reshape(-1).expand_as(z), rows.reshape(-1).expand_as(z), z], -1)
    colors = voxel_colors(solid, color, camera.unproject(pixels))
    return colors.view(count, -1, size, size) * covered
