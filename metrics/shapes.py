"""Metrics of sets of voxel shapes: diversity, occupancy and similarity to the training set."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK = 64  # grids converted to float at once


def iou_matrix(a: Bool[Tensor, "N D D D"], b: Bool[Tensor, "M D D D"]) -> Float[Tensor, "N M"]:
    """Return the IoU of each grid of ``a`` with each grid of ``b``; two empty grids count as equal."""
    first = a.flatten(1).float()
    intersection = torch.cat([first @ part.flatten(1).float().T for part in b.split(CHUNK)], 1)
    union = first.sum(1)[:, None] + b.flatten(1).sum(1) - intersection
    return (intersection / union.clamp(min=1)).where(union > 0, 1.0)


def mean_pairwise_iou(solids: Bool[Tensor, "N D D D"]) -> float:
    """Return the mean IoU of all pairs, which is near 1 if a generator has collapsed to one shape."""
    iou = iou_matrix(solids, solids)
    n = len(solids)
    return float((iou.sum() - iou.diagonal().sum()) / max(1, n * (n - 1)))


def mean_occupancy(occupancy: Float[Tensor, "N D D D"] | Bool[Tensor, "N D D D"]) -> float:
    """Return the occupied fraction of the grids."""
    return float(occupancy.float().mean())


def nearest_training_iou(
    solids: Bool[Tensor, "N D D D"], training: Bool[Tensor, "M D D D"]
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """Return, for each generated grid, the greatest IoU with a training shape, and that shape's index.

    A generator that has memorized its training set scores near 1. Compare with held-out shapes: generated shapes should be
    about as similar to the training shapes as these are.
    """
    best = [iou_matrix(part, training).max(1) for part in solids.split(CHUNK)]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
