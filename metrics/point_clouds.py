"""Metrics of sets of shapes by points on their surfaces: coverage, minimum matching distance, 1-NN accuracy.

The definitions are those of PointFlow (Yang et al., 1906.12320, section 5.1) with the Chamfer distance. ``G`` generated
shapes are compared with ``R`` reference shapes, usually R = G. Each is a cloud of P points in the cube [-1/2, 1/2]³.
"""

# ruff: noqa: ANN001, ANN202 (numba infers the types of kernels)

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from renderers import InputError
from renderers.meshes.marching_cubes import marching_cubes
from renderers.numba_jit import compiled, map_batch


def sample_surface(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], points: int, seed: int
) -> Float[np.ndarray, "P 3"]:
    """Sample points uniformly by area from a triangle mesh, float64.

    Raises:
        InputError: if the mesh has no area.
    """
    corners = vertices.astype(np.float64)[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if not areas.sum() > 0:
        raise InputError("an empty shape has no surface to sample points from; remove it")
    rng = np.random.default_rng(seed)
    sampled = corners[rng.choice(len(areas), points, p=areas / areas.sum())]
    # Uniform points of the unit square, folded over its diagonal.
    u, v = rng.random((2, points, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return sampled[:, 0] + u * (sampled[:, 1] - sampled[:, 0]) + v * (sampled[:, 2] - sampled[:, 0])


def surface_clouds(solids: Bool[Tensor, "N D D D"], points: int = 2048, seed: int = 0) -> Float[Tensor, "N P 3"]:
    """Sample points on the marching-cubes surface of each grid ``[z, y, x]``; cloud i depends on grid i and (seed, i).

    Raises:
        InputError: if grids are empty.
    """
    empty = [i for i, solid in enumerate(solids) if not solid.any()]
    if empty:
        raise InputError(f"{len(empty)} of {len(solids)} shapes are empty, the first has index {empty[0]}; remove them")
    clouds = []
    for i, solid in enumerate(solids.cpu().numpy()):
        vertices, faces, _ = marching_cubes(solid)
        clouds.append(sample_surface(vertices, faces, points, seed * 1_000_003 + i))
    return torch.from_numpy(np.stack(clouds)).to(solids.device)


def rotate_clouds(clouds: Float[Tensor, "*N P 3"], degrees: float) -> Float[Tensor, "*N P 3"]:
    """Rotate points (x, y, z) about the vertical axis y, from z toward x.

    90 degrees correspond to ``rot90(1, (1, 3))`` of grids ``[n, z, y, x]``.
    """
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y, z = clouds.unbind(-1)
    return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x], -1)


def chamfer_matrix(a: Float[Tensor, "N P 3"], b: Float[Tensor, "M Q 3"] | None = None) -> Float[Tensor, "N M"]:
    """Return the Chamfer distance of each cloud of ``a`` to each cloud of ``b``, or to each of ``a`` if ``b`` is None.

    ``CD(X, Y) = mean_x min_y |x - y|² + mean_y min_x |x - y|²``, over all pairs of points. On a CPU squared distances are
    in float32 and means in float64, on as many threads as torch uses; on a GPU everything is in float64.
    """
    if a.is_cuda:
        return chamfer_reference(a.double(), (a if b is None else b).double())
    first, second = (_coordinates(clouds) for clouds in (a, a if b is None else b))
    distances = np.zeros((len(first), len(second)))

    def fill_row(i: int) -> None:
        start = i + 1 if b is None else 0
        _chamfer(first[i], second[start:], distances[i, start:])

    map_batch(fill_row, len(first))
    return torch.from_numpy(distances if b is not None else distances + distances.T)


def _coordinates(clouds: Float[Tensor, "N P 3"]) -> Float[np.ndarray, "N 3 P"]:
    return np.ascontiguousarray(clouds.float().transpose(1, 2).numpy())


@compiled
@no_type_check
def _chamfer(x, clouds, out):
    """Write the Chamfer distances of ``x (3, P)`` to ``clouds (M, 3, Q)`` to ``out``."""
    for k in range(len(clouds)):
        out[k] = _mean_nearest(x, clouds[k]) + _mean_nearest(clouds[k], x)


@compiled
@no_type_check
def _mean_nearest(x, y):
    """Return the mean squared distance of the points of ``x`` to the nearest point of ``y``.

    The inner loop has no reduction, so the compiler vectorizes it: faster than a k-d tree for some thousand points.
    """
    nearest = np.full(x.shape[1], np.float32(np.inf))
    for j in range(y.shape[1]):
        for i in range(x.shape[1]):
            squared = (x[0, i] - y[0, j]) ** 2 + (x[1, i] - y[1, j]) ** 2 + (x[2, i] - y[2, j]) ** 2
            nearest[i] = min(nearest[i], squared)
    total = 0.0
    for i in range(x.shape[1]):
        total += nearest[i]
    return total / x.shape[1]


def chamfer_reference(a: Float[Tensor, "N P 3"], b: Float[Tensor, "M Q 3"]) -> Float[Tensor, "N M"]:
    """Compute :func:`chamfer_matrix` in plain torch, in the dtype of the clouds."""
    rows = []
    for cloud in a:
        row = []
        for part in b.split(32):
            squared = torch.cdist(cloud[None], part, compute_mode="donot_use_mm_for_euclid_dist").square()
            row.append(squared.amin(2).mean(1) + squared.amin(1).mean(1))
        rows.append(torch.cat(row))
    return torch.stack(rows)


def coverage(distances: Float[Tensor, "G R"]) -> float:
    """Return the fraction of reference shapes that are nearest to some generated shape; higher is better."""
    return float(distances.argmin(1).unique().numel() / distances.shape[1])


def minimum_matching_distance(distances: Float[Tensor, "G R"]) -> float:
    """Return the mean distance of the reference shapes to the nearest generated shape; lower is better."""
    return float(distances.amin(0).mean())


def nearest_neighbor_accuracy(
    generated: Float[Tensor, "G G"], across: Float[Tensor, "G R"], reference: Float[Tensor, "R R"]
) -> float:
    """Return how often a shape's nearest neighbour is in its own set (leave-one-out); 1/2 is best, 1 means disjoint sets.

    A shape that is equally near to both sets counts half.
    """

    def correct(own: Tensor, other: Tensor) -> Tensor:
        nearest = own.clone().fill_diagonal_(torch.inf).amin(1)
        return (nearest < other.amin(1)).double() + 0.5 * (nearest == other.amin(1))

    return float(torch.cat([correct(generated, across), correct(reference, across.T)]).mean())


def compare_clouds(
    generated: Float[Tensor, "G P 3"],
    reference: Float[Tensor, "R P 3"],
    within_reference: Float[Tensor, "R R"] | None = None,
) -> dict[str, float]:
    """Compute ``coverage``, ``mmd`` and ``one_nn_accuracy`` of two sets of clouds with the Chamfer distance.

    MMD grows with the spacing of the points: compare only values for the same number of points.

    Args:
        generated: clouds of generated shapes.
        reference: clouds of reference shapes.
        within_reference: ``chamfer_matrix(reference)``, if it is known.
    """
    across = chamfer_matrix(generated, reference)
    within = chamfer_matrix(reference) if within_reference is None else within_reference
    return {
        "coverage": coverage(across),
        "mmd": minimum_matching_distance(across),
        "one_nn_accuracy": nearest_neighbor_accuracy(chamfer_matrix(generated), across, within),
    }
