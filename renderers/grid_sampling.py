"""Resampling of a volume into the camera's view: the rigid transform of IG-GAN and of the volume renderers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from renderers.cameras import Camera
from renderers.volume.reference import Rays


def camera_lattice(camera: Camera, size: int) -> Float[Tensor, "B S S S 3"]:
    """Return the world positions of an S³ lattice aligned with the image.

    ``[b, k, j, i]`` is behind the centre of pixel column i and row j (row 0 at the top), k-th in depth (0 nearest).
    Depth spans [-1, 1] around the origin, so at ``S = 2 D`` one voxel of a D³ grid is one pixel wide, and the grid is in
    the middle of the lattice (64³ in 128³: IG-GAN, supplement B.1). A perspective camera spreads the lattice over its
    frustum.
    """
    return Rays.of(camera, size, size).points(camera.rotation)


def resample(volume: Float[Tensor, "B C D D D"], camera: Camera, size: int | None = None) -> Float[Tensor, "B C S S S"]:
    """Resample a volume over [-1/2, 1/2]³ trilinearly into the camera's view; zero outside.

    The result is indexed ``[b, c, depth, row, column]``, depth 0 nearest to the viewer, so that a reduction over dim 2
    gives an image. ``size`` defaults to ``2 D``, as in the supplement. On a CPU a kernel visits only the samples inside
    the volume, an eighth of the lattice; other devices use torch's ``grid_sample``.
    """
    size = 2 * volume.shape[-1] if size is None else size
    if volume.device.type == "cpu" and volume.dtype in (torch.float32, torch.float64):
        from renderers.volume import numba_backend

        return numba_backend.resample(volume, camera.rotation.to(volume), Rays.of(camera, size, size))
    return resample_reference(volume, camera, size)


def resample_reference(volume: Float[Tensor, "B C D D D"], camera: Camera, size: int) -> Float[Tensor, "B C S S S"]:
    """Compute :func:`resample` in plain torch: the specification of the kernel."""
    # grid_sample's coordinates are -1 and 1 at the volume's outer faces: twice the world's.
    return F.grid_sample(volume, 2 * camera_lattice(camera, size).to(volume), align_corners=False)
