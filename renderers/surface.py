"""From a solid voxel grid to its surface."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from skimage.measure import marching_cubes as _marching_cubes


def marching_cubes(
    solid: Bool[np.ndarray, "D D D"],
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 3"]]:
    """Closed surface of a boolean grid ``[z, y, x]`` in the world frame of :class:`renderers.VoxelGrid`.

    Returns vertices (x, y, z), faces (counter-clockwise from outside) and unit vertex normals pointing out. The solid is
    padded with one empty voxel, so that what touches the grid's border is closed as well. An empty solid has no vertices.

    Normals are the negative gradient of the trilinearly interpolated occupancy, by differences over 0.75 voxels to
    either side: smooth over the stairs of a binary grid, never zero on a surface, and the same for any renderer that
    walks the volume itself.
    """
    size = solid.shape[0]
    if not solid.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32)
    field = np.pad(solid.astype(np.float32), 2)
    vertices, faces, _, _ = _marching_cubes(field, 0.5)
    normals = _descent(field, vertices)
    # (z, y, x) to (x, y, z) is a reflection: reverse each face to keep its outside outside.
    xyz = (vertices[:, ::-1] - 2 + 0.5) / size - 0.5
    return np.ascontiguousarray(xyz, np.float32), faces[:, ::-1].astype(np.int32), normals[:, ::-1].astype(np.float32)


def _descent(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unit ``f(p - 0.75 e_a) - f(p + 0.75 e_a)`` over the axes a, at midpoints p of lattice edges of a binary field."""
    low = np.floor(points).astype(np.int32)
    high = np.ceil(points).astype(np.int32)
    normals = np.empty(points.shape, np.float32)
    for axis in range(3):
        step = np.eye(3, dtype=np.int32)[axis]
        value = [field[tuple(p.T)] for p in (low - step, low, high, high + step)]
        along = (0.25 * value[0] + 0.75 * value[1]) - (0.75 * value[2] + 0.25 * value[3])
        # Where p is an integer along this axis, average the central differences at the edge's two ends.
        across = 0.375 * ((value[0] - field[tuple((low + step).T)]) + (field[tuple((high - step).T)] - value[3]))
        normals[:, axis] = np.where(low[:, axis] != high[:, axis], along, across)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
