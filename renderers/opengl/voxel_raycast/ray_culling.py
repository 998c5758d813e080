"""Prepares voxel grids on the CPU for the shaders of :mod:`renderers.opengl.voxel_raycast.raycaster`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Shaped

from renderers.cameras import Camera
from renderers.opengl.voxel_raycast.marching_cubes_table import outward_normals, surface_points
from renderers.opengl.voxel_raycast.ray_culling_numba import code_extents, cull_rays

BLOCK = 4  # side of the blocks of pixels that software drivers shade at once
RAYS_PER_ROW = 1 << 12  # rays per row of the shader's texture, as in centre.frag


class RayCuller:
    """Packs grids into one byte per cell, and lists the rays that may hit a surface. Work buffers are reused.

    Grids are padded by at least one empty voxel on each side. There are Y = D + 2 cells along y and z, and X, the next
    multiple of eight, along x.

    Args:
        voxels: number of voxels along a grid's edge, D.
        grids: maximum number of grids per call.
        size: image size in pixels.
        cubes: whether the surface is that of the voxels' cubes instead of marching cubes.

    Attributes:
        codes: ``(grids, Y, Y, X)`` bytes for the shader, see :func:`~.ray_culling_numba.cull_rays`.
        rays: ``(N, 4)`` int32, see there, with capacity for every pixel of an image in blocks of 4x4, and for whole rows.
        views: ``(grids, 4, 4)`` float32, see there.
    """

    def __init__(self, voxels: int, grids: int, size: int, cubes: bool = False) -> None:
        self.cubes = cubes
        x, y = 8 * -(-(voxels + 2) // 8), voxels + 2
        self.codes = np.zeros((grids, y, y, x), np.uint8)
        capacity = grids * (BLOCK * -(-size // BLOCK)) ** 2
        self.rays = np.zeros((-(-capacity // RAYS_PER_ROW) * RAYS_PER_ROW, 4), np.int32)
        self.views = np.zeros((grids, 4, 4), np.float32)
        self._words = self.codes.view(np.uint64)
        self._cells = np.zeros_like(self._words) if cubes else self._words
        self._solid = np.zeros((y + 2, y, x), np.uint8)  # the last planes stay empty
        self._slices, self._near = np.zeros((size, size), np.int32), np.full((size, size), np.inf, np.float32)
        self._tables = outward_normals(cubes), *surface_points(cubes)

    def cull(
        self, volumes: Shaped[np.ndarray, "B D D D"], threshold: float, camera: Camera
    ) -> tuple[Int[np.ndarray, " B"], bool]:
        """Prepare ``B <= grids`` grids, booleans or float32 that are solid above ``threshold``.

        Returns:
            The number of rays of each grid, and False if a float32 value may be outside [0, 1].
        """
        volumes = np.ascontiguousarray(volumes)
        if volumes.dtype == bool:
            bits = np.empty((0, 0, 0, 0), np.uint32)
            volumes = volumes.view(np.uint8)
            typed_threshold: np.number = np.uint8(0)
        else:
            bits = volumes.view(np.uint32)
            typed_threshold = np.float32(threshold)
        counts = np.zeros(len(volumes), np.int64)
        view = float(volumes.shape[-1]), camera.distance, camera.half_extent, camera.fov is not None
        rotations = np.ascontiguousarray(camera.rotation.numpy())
        in_range = cull_rays(
            volumes,
            bits,
            typed_threshold,
            self.cubes,
            code_extents(*self._tables, rotations, view),
            rotations,
            view,
            self._solid,
            self._cells,
            self._words,
            self._slices,
            self._near,
            self.rays,
            self.views,
            counts,
        )
        return counts, bool(in_range)
