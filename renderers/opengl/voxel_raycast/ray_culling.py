"""What the processor prepares of voxel grids for the shader of :mod:`renderers.opengl.voxel_raycast.raycaster`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Shaped

from renderers.cameras import Camera
from renderers.opengl.voxel_raycast.marching_cubes_table import outward_normals, surface_points
from renderers.opengl.voxel_raycast.ray_culling_numba import cull_rays, extents_of_codes

BLOCK = 4  # pixels along an edge: what software drivers shade at once
RAYS_ACROSS = 1 << 12  # rays in a row of the shader's texture, as the shader has it


class RayCuller:
    """Turns grids into a byte a cell and a list of the rays worth walking, with work buffers kept from batch to batch.

    Every grid is padded by at least one empty voxel. Y = D + 2 cells lie along y and z, and X, the next multiple of eight,
    along x.

    Args:
        voxels: along a grid's edge, D.
        grids: the most that come at once.
        size: of the image, pixels.
        cubes: each solid voxel is the whole of its cell.

    Attributes:
        codes: ``(grids, Y, Y, X)`` bytes for the shader, see :func:`~.ray_culling_numba.cull_rays`.
        rays: ``(N, 4)`` int32, see there: room for every pixel of an image in blocks of 4x4, and for whole rows.
        views: ``(grids, 4, 4)`` float32, see there.
    """

    def __init__(self, voxels: int, grids: int, size: int, cubes: bool = False) -> None:
        self.cubes = cubes
        x, y = 8 * -(-(voxels + 2) // 8), voxels + 2
        self.codes = np.zeros((grids, y, y, x), np.uint8)
        most = grids * (BLOCK * -(-size // BLOCK)) ** 2
        self.rays = np.zeros((-(-most // RAYS_ACROSS) * RAYS_ACROSS, 4), np.int32)
        self.views = np.zeros((grids, 4, 4), np.float32)
        self._words = self.codes.view(np.uint64)
        self._cells = np.zeros_like(self._words) if cubes else self._words
        self._solid = np.zeros((y + 2, y, x), np.uint8)  # the last planes stay empty
        self._slices, self._near = np.zeros((size, size), np.int32), np.full((size, size), np.inf, np.float32)
        self._tables = outward_normals(cubes), *surface_points(cubes)

    def list(
        self, volumes: Shaped[np.ndarray, "B D D D"], threshold: float, camera: Camera
    ) -> tuple[Int[np.ndarray, " B"], bool]:
        """Prepare ``B <= grids`` grids, booleans or float32 that are solid above ``threshold``.

        Returns how many rays each has, and False if a float32 may lie outside [0, 1].
        """
        volumes = np.ascontiguousarray(volumes)
        bits = volumes.view(np.uint32) if volumes.dtype == np.float32 else np.empty((0, 0, 0, 0), np.uint32)
        if volumes.dtype == bool:
            volumes, above = volumes.view(np.uint8), np.uint8(0)
        else:
            above = np.float32(threshold)
        counts = np.zeros(len(volumes), np.int64)
        view = float(volumes.shape[-1]), camera.distance, camera.half_extent, camera.fov is not None
        rotations = np.ascontiguousarray(camera.rotation.numpy())
        inside = cull_rays(
            volumes,
            bits,
            above,
            self.cubes,
            extents_of_codes(*self._tables, rotations, view),
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
        return counts, bool(inside)
