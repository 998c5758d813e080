"""How varied and how full generated shapes are: what tells a collapse."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def mean_pairwise_iou(solids: Bool[Tensor, "N D D D"]) -> float:
    """Mean intersection over union of all pairs: near 1 when a generator has collapsed to one shape.

    Two empty grids count as equal.
    """
    flat = solids.flatten(1).float()
    intersection = flat @ flat.T
    count = flat.sum(1)
    union = count[:, None] + count[None] - intersection
    iou = (intersection / union.clamp(min=1)).where(union > 0, 1.0)
    n = len(solids)
    return float((iou.sum() - iou.diagonal().sum()) / max(1, n * (n - 1)))


def mean_occupancy(occupancy: Float[Tensor, "N D D D"] | Bool[Tensor, "N D D D"]) -> float:
    """Share of the grid that is occupied."""
    return float(occupancy.float().mean())
