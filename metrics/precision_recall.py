"""Precision and recall of generated images by k-nearest-neighbour manifolds (Kynkäänniemi et al., 1904.06991)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metrics.feature_sets import FeatureSets

MIN_IMAGES = 100  # of each kind; with fewer, neighbours are so far away that the estimate is mostly noise
CHUNK = 1000  # rows of distances computed at once


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return precision and recall of two sets of features, both in [0, 1].

    The manifold of a set is the union of the balls around its features whose radius is the distance to the k-th nearest
    other feature of the set. Precision is the fraction of ``fake`` inside the manifold of ``real``, and recall the fraction
    of ``real`` inside the manifold of ``fake``. Both sets need more than k samples.
    """
    return _inside(fake, real, k).double().mean(), _inside(real, fake, k).double().mean()


def _inside(x: Float[Tensor, "n d"], points: Float[Tensor, "m d"], k: int) -> Bool[Tensor, " n"]:
    """Return which of ``x`` are in the manifold of ``points``."""
    # The distance of a point to itself is the smallest in its row.
    radii = torch.cat([torch.cdist(part, points).kthvalue(k + 1).values for part in points.split(CHUNK)])
    return torch.cat([(torch.cdist(part, points) <= radii).any(1) for part in x.split(CHUNK)])


class PrecisionRecall(FeatureSets):
    """:func:`precision_recall` of the features of all ranks, or of a random subset of each kind.

    The result depends only on the two sets, not on batches or the number of processes. All features are kept: 1 kB per image
    for ``renders_small``, 16 kB for InceptionV3.

    Args:
        k: neighbours.
        limit: maximum number of features of each kind. Time grows with its square; distances take ``8 kB * limit`` at once.
        seed: of the subset.
    """

    def __init__(self, k: int = 3, limit: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        self.k, self.limit, self.seed = k, limit, seed

    def compute(self) -> dict[str, float]:
        """Return ``precision`` and ``recall``, or nothing with fewer than ``MIN_IMAGES`` images of either kind."""
        sets = self.sorted_sets()
        if min(map(len, sets)) < MIN_IMAGES:
            return {}
        generator = torch.Generator().manual_seed(self.seed)
        real, fake = (x[torch.randperm(len(x), generator=generator)[: self.limit].to(x.device)] for x in sets)
        precision, recall = precision_recall(real, fake, self.k)
        return {"precision": float(precision), "recall": float(recall)}
