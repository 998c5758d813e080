"""Solid voxelization of triangle meshes that need not be watertight."""

from __future__ import annotations

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int
from scipy import ndimage

_SHIFT = 1e-5  # voxels; rays are shifted off the voxel centres so that they miss the edges of axis-aligned meshes
_CHUNK = 2_000_000  # ray-triangle pairs per pass
_SAMPLES = 4_000_000  # surface points per pass
_NEIGHBORHOOD = np.ones((3, 3, 3), bool)


def normalize(mesh: trimesh.Trimesh, span: float = 0.9) -> trimesh.Trimesh:
    """Return a copy with its bounding box centred at the origin and its longest side scaled to ``span``.

    Raises:
        ValueError: the mesh has no extent.
    """
    low, high = mesh.bounds if len(mesh.vertices) else (np.zeros(3), np.zeros(3))
    longest = float((high - low).max())
    if not longest > 0:
        raise ValueError("the mesh has no extent")
    copy = mesh.copy()
    copy.vertices = (mesh.vertices - (low + high) / 2) * (span / longest)
    return copy


def voxelize(mesh: trimesh.Trimesh, size: int) -> Bool[np.ndarray, "D D D"]:
    """Return the solid occupancy ``[z, y, x]`` of a mesh on the grid that fills [-1/2, 1/2]³, clipped to it.

    A voxel is occupied

    - if its centre is inside by ray parity along at least two of the three axes; crossings are counted separately for each
      closed part of the mesh (parts may overlap) and together for all open faces; or
    - if the surface encloses it, even if parity fails (shells with small holes); or
    - if the surface passes through it where the solid is too thin to contain a voxel centre, so that sheets, wires and thin
      legs survive.

    Args:
        mesh: triangles in the world frame, watertight or not, in any winding.
        size: voxels per edge, D.
    """
    if len(mesh.faces) == 0:
        return np.zeros((size, size, size), bool)
    # In voxel units: voxel (i, j, k) has its centre at (i, j, k).
    triangles = (np.asarray(mesh.triangles, np.float64) + 0.5) * size - 0.5
    surface = _surface(triangles, size)
    parts = _closed_parts(mesh)
    votes = sum(_inside_along(axis, triangles, parts, size).astype(np.int8) for axis in range(3))
    solid = votes >= 2
    solid |= _enclosed(surface)
    # Surface voxels of thick parts touch voxels whose centre is inside. The others are thin parts; one more ring of surface
    # voxels joins them to the thick parts.
    thin = surface & ~ndimage.binary_dilation(solid, _NEIGHBORHOOD)
    if thin.any():
        solid |= thin | (surface & ndimage.binary_dilation(thin, _NEIGHBORHOOD))
    return solid


def _closed_parts(mesh: trimesh.Trimesh) -> Int[np.ndarray, " F"]:
    """Return a part number per face: one per closed component, and 0 for the faces of open components."""
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    edges = np.sort(merged.edges, axis=1)
    labels = trimesh.graph.connected_component_labels(merged.face_adjacency, node_count=len(merged.faces))
    keys = edges[:, 0].astype(np.int64) * len(merged.vertices) + edges[:, 1]
    owner = np.repeat(labels, 3)
    order = np.lexsort((owner, keys))
    keys, owner = keys[order], owner[order]
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]) | (owner[1:] != owner[:-1])])
    odd = np.diff(np.r_[starts, len(keys)]) % 2 == 1
    is_open = np.zeros(labels.max() + 1, bool)
    is_open[owner[starts[odd]]] = True
    return np.where(is_open[labels], 0, labels + 1)


def _inside_along(
    axis: int, triangles: Float[np.ndarray, "F 3 3"], parts: Int[np.ndarray, " F"], size: int
) -> Bool[np.ndarray, "D D D"]:
    """Return which voxel centres ``[z, y, x]`` are inside by ray parity along ``axis``."""
    u_axis, v_axis = ((1, 2), (0, 2), (0, 1))[axis]
    columns, heights, faces = _crossings(triangles[:, :, [u_axis, v_axis, axis]], size)
    part = parts[faces]
    order = np.lexsort((heights, part, columns))
    columns, heights, part = columns[order], heights[order], part[order]
    key = columns.astype(np.int64) * (int(parts.max()) + 1) + part
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, int)
    counts = np.diff(np.r_[starts, len(key)])
    rank = np.arange(len(key)) - np.repeat(starts, counts)
    # A line with an odd number of crossings is ambiguous and marks nothing.
    enter = np.flatnonzero((rank % 2 == 0) & (np.repeat(counts, counts) % 2 == 0))
    first = np.clip(np.ceil(heights[enter]), 0, size).astype(int)
    last = np.clip(np.ceil(heights[enter + 1]), 0, size).astype(int)  # exclusive
    change = np.zeros((size * size, size + 1), np.int32)
    np.add.at(change, (columns[enter], first), 1)
    np.add.at(change, (columns[enter], last), -1)
    inside = (np.cumsum(change, axis=1)[:, :size] > 0).reshape(size, size, size)  # [u, v, axis]
    return inside.transpose([(u_axis, v_axis, axis).index(a) for a in (2, 1, 0)])


def _crossings(
    triangles: Float[np.ndarray, "F 3 3"], size: int
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Intersect the grid lines through integer (u, v) with triangles; return line ``u size + v``, w and face of each hit."""
    triangles = triangles - np.array([_SHIFT, _SHIFT * np.sqrt(2), 0])
    low = np.clip(np.ceil(triangles[:, :, :2].min(1)), 0, size).astype(np.int64)
    high = np.clip(np.floor(triangles[:, :, :2].max(1)) + 1, 0, size).astype(np.int64)
    extent = np.maximum(high - low, 0)
    pairs = extent.prod(1)
    found = []
    for chosen in _chunks(pairs, _CHUNK):
        faces = np.repeat(chosen, pairs[chosen])
        local = np.arange(len(faces)) - np.repeat(np.cumsum(pairs[chosen]) - pairs[chosen], pairs[chosen])
        u = low[faces, 0] + local // extent[faces, 1]
        v = low[faces, 1] + local % extent[faces, 1]
        a, b, c = (triangles[faces, i] for i in range(3))
        # Twice the signed areas opposite each corner, which all have the same sign inside.
        areas = [(p[:, 0] - u) * (q[:, 1] - v) - (p[:, 1] - v) * (q[:, 0] - u) for p, q in ((b, c), (c, a), (a, b))]
        total = areas[0] + areas[1] + areas[2]
        hit = (np.all([s >= 0 for s in areas], axis=0) | np.all([s <= 0 for s in areas], axis=0)) & (total != 0)
        height = sum(s[hit] * p[hit, 2] for s, p in zip(areas, (a, b, c), strict=True)) / total[hit]
        found.append((u[hit] * size + v[hit], height, faces[hit]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    columns, heights, faces = (np.concatenate(x) for x in zip(*found, strict=True))
    return columns, heights, faces


def _chunks(counts: Int[np.ndarray, " F"], limit: int) -> list[Int[np.ndarray, " N"]]:
    """Split the indices with a positive count into runs whose counts sum to at most about ``limit``."""
    chosen = np.flatnonzero(counts)
    cuts = np.flatnonzero(np.diff((np.cumsum(counts[chosen]) - 1) // limit)) + 1
    return [part for part in np.split(chosen, cuts) if len(part)]


def _surface(triangles: Float[np.ndarray, "F 3 3"], size: int) -> Bool[np.ndarray, "D D D"]:
    """Return the voxels ``[z, y, x]`` that the surface passes through, from samples at most half a voxel apart."""
    marked = np.zeros((size, size, size), bool)
    # Triangles outside the grid need no samples.
    near = (triangles.max(1) > -1).all(1) & (triangles.min(1) < size).all(1)
    triangles = triangles[near]
    longest = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(1, initial=0)
    steps = np.clip(np.ceil(longest * 2), 1, 16 * size).astype(int)
    points = (steps + 1) * (steps + 2) // 2
    for n in np.unique(steps):
        i, j = np.nonzero(np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n)
        weights = np.stack([i, j, n - i - j], 1) / n
        for chosen in _chunks(points * (steps == n), _SAMPLES):
            at = np.floor(np.einsum("pc,fcx->fpx", weights, triangles[chosen]) + 0.5).astype(np.int64).reshape(-1, 3)
            at = at[((at >= 0) & (at < size)).all(1)]
            marked[at[:, 2], at[:, 1], at[:, 0]] = True
    return marked


def _enclosed(surface: Bool[np.ndarray, "D D D"]) -> Bool[np.ndarray, "D D D"]:
    """Return the empty voxels that are not 6-connected to the outside of the grid."""
    labels, _ = ndimage.label(np.pad(~surface, 1, constant_values=True))
    return ((labels != labels[0, 0, 0]) & (labels != 0))[1:-1, 1:-1, 1:-1]
