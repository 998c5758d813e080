"""A volume seen from a camera: the rigid transform of IG-GAN and of the volume renderers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from renderers.cameras import Camera


def camera_lattice(camera: Camera, size: int) -> Float[Tensor, "B S S S 3"]:
    """World positions of an S³ lattice aligned with the picture.

    ``[b, k, j, i]`` lies behind the centre of pixel column i and row j (row 0 at the top), k-th in depth (0 nearest).
    Depth runs over [-1, 1] around the origin, so at ``S = 2 D`` one voxel of a D³ grid is one pixel wide, and the grid
    lands in the middle of the lattice (64³ in 128³: IG-GAN, supplement B.1). A perspective camera spreads the lattice
    over its frustum.
    """
    axis = (torch.arange(size, device=camera.device, dtype=camera.azimuth.dtype) + 0.5) / size * 2 - 1
    right, up, back = camera.rotation[:, :, None].unbind(1)  # (B, 1, 3): the camera's axes in the world
    plane = axis.view(1, -1, 1) * right[:, None] - axis.view(-1, 1, 1) * up[:, None]  # (B, S, S, 3)
    ray = -axis.view(-1, 1) * back  # (B, S, 3)
    if camera.fov is not None:
        plane = plane[:, None] * (camera.half_extent * (camera.distance + axis)).view(-1, 1, 1, 1)
        return plane + ray[:, :, None, None]
    return plane[:, None] + ray[:, :, None, None]


def resample(volume: Float[Tensor, "B C D D D"], camera: Camera, size: int | None = None) -> Float[Tensor, "B C S S S"]:
    """Resample a volume over [-1/2, 1/2]³ trilinearly into the camera's view; zero outside.

    The result is indexed ``[b, c, depth, row, column]``, depth 0 nearest to the viewer, so that any reduction over dim 2
    is a picture. ``size`` defaults to ``2 D``, the supplement's embedding.
    """
    size = 2 * volume.shape[-1] if size is None else size
    # grid_sample's coordinates are -1 and 1 at the volume's outer faces: twice the world's.
    return F.grid_sample(volume, 2 * camera_lattice(camera, size).to(volume), align_corners=False)
