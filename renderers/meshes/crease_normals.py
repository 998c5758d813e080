"""Normals of meshes from files: smooth over gentle bends, sharp at creases, and independent of the winding of faces."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CREASE_ANGLE = 40.0  # degrees between the normals of two faces beyond which the edge between them is sharp
_MAX_FACES = 1000  # around one vertex; beyond it, face normals are used, because faces are compared pairwise


def crease_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], angle: float = CREASE_ANGLE
) -> Float[np.ndarray, "F 3 3"]:
    """Return a unit normal for every corner of every face.

    The normal of a corner is the mean of the normals of the faces that meet at its position and bend from its own face by
    at most ``angle`` degrees, weighted by their angles there. It is on the side from which its face is counter-clockwise.
    A face counts by its plane, whatever its winding, so faces of the opposite winding do not cancel. Vertices at one
    position count as one, so duplicated vertices (STL files, texture seams) do not change the normals.

    Faces without extent have the normal 0.
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    _, position = np.unique(vertices, axis=0, return_inverse=True)
    position = position.reshape(-1)[faces].reshape(-1)
    weights = _corner_angles(corners).reshape(-1)
    order = np.argsort(position, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(position[order]) > 0])
    counts = np.diff(np.r_[starts, len(order)])
    result = np.repeat(normals, 3, axis=0)
    threshold = np.cos(np.radians(angle)) - 1e-6
    for count in np.unique(counts[(counts > 1) & (counts <= _MAX_FACES)]):
        stars = order[starts[counts == count][:, None] + np.arange(count)]  # corners around each position
        for block in np.array_split(stars, max(1, stars.size * count // 4_000_000)):
            n = normals[block // 3]
            cosines = np.einsum("pic,pjc->pij", n, n)
            share = np.where(np.abs(cosines) >= threshold, np.sign(cosines), 0) * weights[block][:, None]
            total = np.einsum("pij,pjc->pic", share, n)
            length = np.linalg.norm(total, axis=-1, keepdims=True)
            result[block] = np.where(length > 1e-12, total / np.maximum(length, 1e-30), n)
    return result.reshape(-1, 3, 3)


def _corner_angles(corners: Float[np.ndarray, "F 3 3"]) -> Float[np.ndarray, "F 3"]:
    ahead = np.roll(corners, -1, axis=1) - corners
    behind = np.roll(corners, 1, axis=1) - corners
    across = np.linalg.norm(np.cross(ahead, behind), axis=-1)
    return np.arctan2(across, (ahead * behind).sum(-1))


def orient_faces(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "F 3"]:
    """Return the faces with one winding per connected surface, outward for closed surfaces.

    Faces are connected by edges that exactly two of them share. A surface without two sides, such as a Möbius strip, is
    left as it is.
    """
    count = len(faces)
    _, position = np.unique(vertices, axis=0, return_inverse=True)
    ends = position.reshape(-1)[faces][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    forward = ends[:, 0] < ends[:, 1]
    _, edge, uses = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True, return_counts=True)
    edge = edge.reshape(-1)
    order = np.argsort(edge, kind="stable")
    pairs = order[uses[edge[order]] == 2].reshape(-1, 2)
    a, b = (pairs // 3).T
    # Two copies of each face, as it is (i) and reversed (i + count). An edge that both faces run through in the same
    # direction connects the one as it is with the other reversed.
    same = forward[pairs[:, 0]] == forward[pairs[:, 1]]
    rows = np.concatenate([a, a + count])
    columns = np.concatenate([np.where(same, b + count, b), np.where(same, b, b + count)])
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), (2 * count, 2 * count))
    _, labels = connected_components(graph, directed=False)
    kept, flipped = labels[:count], labels[count:]
    surface = np.minimum(kept, flipped)
    reverse = (kept > flipped) & (kept != flipped)
    triangles = vertices[faces]
    sums, sizes = np.zeros((2 * count, 3)), np.bincount(surface, minlength=2 * count)
    np.add.at(sums, surface, triangles.mean(1))
    centred = triangles - (sums / np.maximum(sizes, 1)[:, None])[surface][:, None]
    volumes = np.linalg.det(centred) * np.where(reverse, -1, 1)
    votes = np.bincount(surface, volumes, minlength=2 * count)
    extent = np.bincount(surface, np.abs(volumes), minlength=2 * count)
    as_stored = np.bincount(surface, np.where(reverse, -1, 1), minlength=2 * count) >= 0
    outward = np.where(np.abs(votes) > 1e-3 * extent, votes >= 0, as_stored)[surface]
    reverse = (reverse == outward) & (kept != flipped)
    return np.where(reverse[:, None], faces[:, ::-1], faces)
