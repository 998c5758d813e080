"""Measures of sets of voxel shapes: how varied, how full, how near to what they were trained on."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK = 64  # grids made floats at a time


def iou_matrix(a: Bool[Tensor, "N D D D"], b: Bool[Tensor, "M D D D"]) -> Float[Tensor, "N M"]:
    """Intersection over union of each grid of ``a`` with each of ``b``; two empty grids count as equal."""
    first = a.flatten(1).float()
    intersection = torch.cat([first @ part.flatten(1).float().T for part in b.split(CHUNK)], 1)
    union = first.sum(1)[:, None] + b.flatten(1).sum(1) - intersection
    return (intersection / union.clamp(min=1)).where(union > 0, 1.0)


def mean_pairwise_iou(solids: Bool[Tensor, "N D D D"]) -> float:
    """Mean intersection over union of all pairs: near 1 when a generator has collapsed to one shape."""
    iou = iou_matrix(solids, solids)
    n = len(solids)
    return float((iou.sum() - iou.diagonal().sum()) / max(1, n * (n - 1)))


def mean_occupancy(occupancy: Float[Tensor, "N D D D"] | Bool[Tensor, "N D D D"]) -> float:
    """Share of the grid that is occupied."""
    return float(occupancy.float().mean())


def nearest_training_iou(
    solids: Bool[Tensor, "N D D D"], training: Bool[Tensor, "M D D D"]
) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    """For each generated grid the IoU with the training shape most like it, and that shape's index.

    A generator that has memorised its training set scores near 1. Held-out shapes are the yardstick: generated ones should
    lie about as near to the training shapes as these do.
    """
    best = [iou_matrix(part, training).max(1) for part in solids.split(CHUNK)]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
