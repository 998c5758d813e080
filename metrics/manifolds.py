"""Precision, recall, density and coverage of generated images, by balls around k nearest neighbours in feature space.

Precision and recall are those of Kynkäänniemi et al. (1904.06991), density and coverage those of Naeem et al. (2002.09797).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from metrics.feature_sets import FeatureSets

MANIFOLD_METRICS = ("precision", "recall", "density", "image_coverage")
MIN_IMAGES = 100  # of each kind; with fewer, neighbours are so far away that the estimate is mostly noise
CHUNK = 1000  # rows of distances computed at once


def manifold_metrics(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3, k_density: int = 5
) -> dict[str, float]:
    """Return how two sets of features overlap, by the names of :data:`MANIFOLD_METRICS`.

    The ball of a feature has the distance to the k-th nearest other feature of its set as radius, and contains its
    boundary.

    - ``precision``: the fraction of ``fake`` inside any ball of ``real``, with ``k`` (1904.06991, eq. 1 and 2).
    - ``recall``: the fraction of ``real`` inside any ball of ``fake``, with ``k``.
    - ``density``: the number of balls of ``real`` that contain a feature of ``fake``, on average and divided by
      ``k_density`` (2002.09797, section 3). Its expectation is 1 if both sets have one distribution; it has no upper limit.
    - ``image_coverage``: the fraction of balls of ``real``, with ``k_density``, that contain a feature of ``fake``
      (*coverage* in 2002.09797). Its expectation is close to 1 - 2^-k_density for two equally large sets of one
      distribution.

    Both sets need more samples than ``k``, and ``real`` more than ``k_density``.
    """
    radii, density_radii = _radii(real, k, k_density)
    (fake_radii,) = _radii(fake, k)
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    precise, balls = 0, 0
    for part, part_radii in zip(fake.split(CHUNK), fake_radii.split(CHUNK), strict=True):
        distances = _distances(part, real)
        inside = distances <= density_radii
        precise += int((distances <= radii).any(1).sum())
        balls += int(inside.sum())
        recalled |= (distances <= part_radii[:, None]).any(0)
        covered |= inside.any(0)
    values = (
        precise / len(fake),
        float(recalled.double().mean()),
        balls / (k_density * len(fake)),
        float(covered.double().mean()),
    )
    return dict(zip(MANIFOLD_METRICS, values, strict=True))


def _radii(points: Float[Tensor, "n d"], *ks: int) -> list[Float[Tensor, " n"]]:
    """Return the distance of each point to its k-th nearest other point, for each k."""
    # The distance of a point to itself is the smallest in its row.
    nearest = [_distances(part, points).topk(max(ks) + 1, largest=False).values for part in points.split(CHUNK)]
    return [torch.cat(nearest)[:, k] for k in ks]


def _distances(points: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return all distances, exactly 0 for equal features: balls around repeated images have radius 0.

    ``cdist`` uses |x|² + |y|² - 2 <x, y>, whose rounding error in float64 is about 1e-7 of the norms for equal features.
    """
    distances = torch.cdist(points, others)
    resolution = 1e-6 * (points.norm(dim=1, keepdim=True) + others.norm(dim=1))
    return distances.where(~(distances <= resolution), 0.0)  # keeps NaN


class ManifoldMetrics(FeatureSets):
    """:func:`manifold_metrics` of the features of all ranks, or of a random subset of each kind.

    The result depends only on the two sets, not on batches or the number of processes. All features are kept: 1 kB per image
    for ``renders_small``, 16 kB for InceptionV3.

    Args:
        k: neighbours of precision and recall.
        k_density: neighbours of density and coverage.
        limit: maximum number of features of each kind. Time grows with its square; distances take ``8 kB * limit`` at once.
        seed: of the subset.
    """

    def __init__(self, k: int = 3, k_density: int = 5, limit: int = 10_000, seed: int = 0) -> None:
        super().__init__()
        self.k, self.k_density, self.limit, self.seed = k, k_density, limit, seed

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, or nothing with fewer than ``MIN_IMAGES`` images of either kind."""
        sets = self.sorted_sets()
        if min(map(len, sets)) < MIN_IMAGES:
            return {}
        generator = torch.Generator().manual_seed(self.seed)
        real, fake = (x[torch.randperm(len(x), generator=generator)[: self.limit].to(x.device)] for x in sets)
        return manifold_metrics(real, fake, self.k, self.k_density)
