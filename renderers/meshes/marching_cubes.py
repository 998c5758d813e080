"""Surface meshes of solid voxel grids."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from skimage.measure import marching_cubes as _marching_cubes


def marching_cubes(
    solid: Bool[np.ndarray, "D D D"],
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 3"]]:
    """Return the closed surface of a boolean grid ``[z, y, x]`` in the world frame of :class:`renderers.VoxelGrid`.

    The grid is padded with empty voxels, so that the surface is also closed at the grid's border. An empty grid has no
    vertices.

    Normals are the negative gradient of the trilinearly interpolated occupancy, by central differences over ±0.75 voxels.
    They are smooth across the steps of a binary grid, never zero on a surface, and computable without a mesh, which the
    ray-caster (:mod:`renderers.opengl.voxel_raycast`) relies on.

    Returns:
        Vertices (x, y, z), faces (counter-clockwise from outside) and unit vertex normals that point outward.
    """
    size = solid.shape[0]
    if not solid.any():
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32)
    field = np.pad(solid.astype(np.float32), 2)
    vertices, faces, _, _ = _marching_cubes(field, 0.5)
    normals = _descent(field, vertices)
    # skimage's faces are clockwise from outside in (z, y, x), hence counter-clockwise in (x, y, z).
    xyz = (vertices[:, ::-1] - 2 + 0.5) / size - 0.5
    return np.ascontiguousarray(xyz, np.float32), faces.astype(np.int32), normals[:, ::-1].astype(np.float32)


def _descent(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return unit vectors of ``f(p - 0.75 e_a) - f(p + 0.75 e_a)`` over axes a, at midpoints p of edges of the lattice."""
    low = np.floor(points).astype(np.int32)
    high = np.ceil(points).astype(np.int32)
    normals = np.empty(points.shape, np.float32)
    for axis in range(3):
        step = np.eye(3, dtype=np.int32)[axis]
        value = [field[tuple(p.T)] for p in (low - step, low, high, high + step)]
        along = (0.25 * value[0] + 0.75 * value[1]) - (0.75 * value[2] + 0.25 * value[3])
        # If p is an integer along this axis, average the central differences at the two ends of the edge.
        across = 0.375 * ((value[0] - field[tuple((low + step).T)]) + (field[tuple((high - step).T)] - value[3]))
        normals[:, axis] = np.where(low[:, axis] != high[:, axis], along, across)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)


def cubes(
    solid: Bool[np.ndarray, "D D D"],
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 3"]]:
    """Return the exposed faces of the voxels of a boolean grid ``[z, y, x]``, two triangles each, with flat normals.

    Returns vertices, faces and normals like :func:`marching_cubes`. Each square has its own four vertices.
    """
    size = solid.shape[0]
    padded = np.pad(solid, 1)
    vertices, normals = [], []
    for axis in range(3):  # x, y, z, which is dimension 2 - axis of the grid
        for side in (-1, 1):
            outer = padded & ~np.roll(padded, -side, 2 - axis)
            voxels = np.argwhere(outer)[:, ::-1] - 1  # (x, y, z)
            # Corners of the square, counter-clockwise from outside.
            square = np.full((4, 3), 0.5)
            square[:, (axis + 1) % 3] += np.array([-0.5, 0.5, 0.5, -0.5]) * side
            square[:, (axis + 2) % 3] += [-0.5, -0.5, 0.5, 0.5]
            square[:, axis] += 0.5 * side
            vertices.append((voxels[:, None] + square).reshape(-1, 3) / size - 0.5)
            normals.append(np.broadcast_to(np.eye(3)[axis] * side, (4 * len(voxels), 3)))
    points = np.concatenate(vertices).astype(np.float32)
    first = 4 * np.arange(len(points) // 4, dtype=np.int32)[:, None]
    faces = np.concatenate([first + np.array(corners, np.int32) for corners in ([0, 1, 2], [0, 2, 3])])
    return points, faces, np.concatenate(normals).astype(np.float32)
