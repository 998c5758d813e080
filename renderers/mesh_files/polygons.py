"""Triangulation of polygons, also of concave ones."""

from __future__ import annotations

import mapbox_earcut
import numpy as np
from jaxtyping import Float, Integer

from renderers.mesh_files.parts import MeshError

_FLAT = 1e-9  # relative to the polygon's area


def triangulate(
    vertices: Float[np.ndarray, "V 3"],
    indices: Integer[np.ndarray, " N"],
    sizes: Integer[np.ndarray, " P"],
) -> tuple[Integer[np.ndarray, "F 3"], Integer[np.ndarray, " F"]]:
    """Split polygons into triangles of the same winding. Polygons may be concave and slightly non-planar.

    Convex polygons become fans from their first corner; concave ones are clipped by earcut in the plane of their Newell
    normal. Polygons of fewer than three corners give no triangles, nor do those that repeat the corners of another one, as
    the back faces of two-sided meshes do.

    Args:
        vertices: positions that ``indices`` refer to.
        indices: corners of all polygons, one polygon after the other.
        sizes: number of corners of each polygon.

    Raises:
        MeshError: a corner is not finite.

    Returns:
        Positions in ``indices`` of the triangles' corners, and the polygon of each triangle, in the order of polygons.
    """
    if not np.isfinite(vertices[indices]).all():
        raise MeshError("has coordinates that are not finite")
    sizes = np.asarray(sizes, np.int64)
    starts = np.cumsum(sizes) - sizes
    position = number_positions(vertices)
    triangles = [np.zeros((0, 3), np.int64)]
    owners = [np.zeros(0, np.int64)]
    for size in np.unique(sizes[sizes >= 3]):
        polygons = np.flatnonzero(sizes == size)
        corners = starts[polygons, None] + np.arange(size)
        _, first = np.unique(np.sort(position[indices[corners]], axis=1), axis=0, return_index=True)
        first.sort()
        polygons, corners = polygons[first], corners[first]
        fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], 1)
        concave = np.zeros(len(polygons), bool)
        if size > 3:
            points = vertices[indices[corners]]
            concave = ~_is_convex(points)
            for row in np.flatnonzero(concave):
                local = _clip_ears(points[row])
                triangles.append(corners[row][local])
                owners.append(np.full(len(local), polygons[row]))
        triangles.append(corners[~concave][:, fan].reshape(-1, 3))
        owners.append(np.repeat(polygons[~concave], size - 2))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(triangles)[order], owner[order]


def number_positions(vertices: Float[np.ndarray, "V 3"]) -> Integer[np.ndarray, " V"]:
    """Return a number per vertex, equal for those at one position."""
    return np.unique(vertices, axis=0, return_inverse=True)[1].reshape(-1)


def _newell(points: Float[np.ndarray, "P N 3"]) -> Float[np.ndarray, "P 3"]:
    """Return normals whose length is twice the polygons' area."""
    centred = points - points[:, :1]
    return np.cross(centred, np.roll(centred, -1, axis=1)).sum(1)


def _is_convex(points: Float[np.ndarray, "P N 3"]) -> np.ndarray:
    """Return which polygons turn the same way at every corner, once around. Corners on a straight line count as convex."""
    normal = _newell(points)
    edges = np.roll(points, -1, axis=1) - points
    turns = np.einsum("pnc,pc->pn", np.cross(edges, np.roll(edges, -1, axis=1)), normal)
    same = (turns >= -_FLAT * (normal**2).sum(1, keepdims=True)).all(1)
    # A star turns the same way as well, but its fan from the first corner has triangles of the opposite sign.
    fan = np.cross(points[:, 1:-1] - points[:, :1], points[:, 2:] - points[:, :1])
    signs = np.einsum("pnc,pc->pn", fan, normal) >= -_FLAT * (normal**2).sum(1, keepdims=True)
    return same & signs.all(1)


def _clip_ears(points: Float[np.ndarray, "N 3"]) -> Integer[np.ndarray, "F 3"]:
    normal = _newell(points[None])[0]
    drop = int(np.abs(normal).argmax())
    u, v = (drop + 1) % 3, (drop + 2) % 3
    plane = np.ascontiguousarray((points - points[0])[:, [u, v] if normal[drop] > 0 else [v, u]])
    local = mapbox_earcut.triangulate_float64(plane, np.array([len(plane)], np.uint32)).reshape(-1, 3).astype(np.int64)
    a, b, c = (plane[local[:, i]] for i in range(3))
    clockwise = (b - a)[:, 0] * (c - a)[:, 1] < (b - a)[:, 1] * (c - a)[:, 0]
    return np.where(clockwise[:, None], local[:, ::-1], local)


def split_strips(indices: Integer[np.ndarray, " N"], restart: int) -> Integer[np.ndarray, "F 3"]:
    """Return the triangles of strips, which are separated by the index ``restart``; degenerate ones are dropped."""
    faces = [np.zeros((0, 3), np.int64)]
    cuts = np.flatnonzero(indices == restart)
    for strip in np.split(indices.astype(np.int64), cuts):
        strip = strip[strip != restart]
        if len(strip) >= 3:
            triangles = np.stack([strip[:-2], strip[1:-1], strip[2:]], 1)
            triangles[1::2] = triangles[1::2, [1, 0, 2]]
            faces.append(triangles)
    joined = np.concatenate(faces)
    a, b, c = joined.T
    return joined[(a != b) & (b != c) & (a != c)]
