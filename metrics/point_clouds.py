"""Metrics of sets of shapes by points on their surfaces: coverage, minimum matching distance, 1-NN accuracy.

The definitions are those of PointFlow (Yang et al., 1906.12320, section 5.1) with the Chamfer distance. ``G`` generated
shapes are compared with ``R`` reference shapes, usually R = G. Each is a cloud of P points in the cube [-1/2, 1/2]³.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from renderers import InputError
from renderers.meshes.marching_cubes import marching_cubes


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


def chamfer_matrix(a: Float[Tensor, "N P 3"], b: Float[Tensor, "M Q 3"]) -> Float[Tensor, "N M"]:
    """Return the Chamfer distance of each cloud of ``a`` to each cloud of ``b``, in float64.

    ``CD(X, Y) = mean_x min_y |x - y|² + mean_y min_x |x - y|²``, computed from all pairs of points on a GPU and with k-d
    trees on a CPU, with the same result.
    """
    return _by_pairs(a.double(), b.double()) if a.is_cuda else _by_trees(a.double(), b.double())


def _by_pairs(a: Float[Tensor, "N P 3"], b: Float[Tensor, "M Q 3"]) -> Float[Tensor, "N M"]:
    rows = []
    for cloud in a:
        row = []
        for part in b.split(32):
            squared = torch.cdist(cloud[None], part, compute_mode="donot_use_mm_for_euclid_dist").square()
            row.append(squared.amin(2).mean(1) + squared.amin(1).mean(1))
        rows.append(torch.cat(row))
    return torch.stack(rows)


def _by_trees(a: Float[Tensor, "N P 3"], b: Float[Tensor, "M Q 3"]) -> Float[Tensor, "N M"]:
    first, second = ([(cloud, KDTree(cloud)) for cloud in clouds.numpy()] for clouds in (a, b))

    def one_way(x: np.ndarray, tree: KDTree) -> float:
        return float(np.square(tree.query(x)[0]).mean())

    rows = [[one_way(x, y_tree) + one_way(y, x_tree) for y, y_tree in second] for x, x_tree in first]
    return torch.tensor(rows, dtype=torch.float64)


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


def compare_clouds(generated: Float[Tensor, "G P 3"], reference: Float[Tensor, "R P 3"]) -> dict[str, float]:
    """Compute ``coverage``, ``mmd`` and ``one_nn_accuracy`` of two sets of clouds with the Chamfer distance.

    MMD grows with the spacing of the points: compare only values for the same number of points.
    """
    across = chamfer_matrix(generated, reference)
    return {
        "coverage": coverage(across),
        "mmd": minimum_matching_distance(across),
        "one_nn_accuracy": nearest_neighbor_accuracy(
            chamfer_matrix(generated, generated), across, chamfer_matrix(reference, reference)
        ),
    }
