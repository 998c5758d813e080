"""Kernel Inception Distance, which unlike FID is meaningful for tens or hundreds of images."""

from __future__ import annotations

import statistics

import torch
from jaxtyping import Float
from torch import Tensor

from metrics.feature_sets import FeatureSets
from renderers import InputError


def polynomial_mmd2(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Return the unbiased squared maximum mean discrepancy for ``k(x, y) = (x·y / d + 1)³`` (Bińkowski, 1801.01401).

    This is the mean of k over distinct pairs of ``real``, plus that over ``fake``, minus twice the mean over all mixed
    pairs. It may be negative if the sets are similar. Both sets need at least two samples.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(real) + within(fake) - 2 * kernel(real, fake).mean()


class KernelDistance(FeatureSets):
    """Mean and standard deviation of :func:`polynomial_mmd2` over random subsets of the features, in float64.

    Subsets are sampled without replacement. The result depends only on the two sets, not on batches or the number of
    processes.

    Args:
        subset: images of each kind per subset.
        subsets: number of subsets.
        seed: of the sampling.

    Raises:
        InputError: if ``subset`` is less than 2 or ``subsets`` less than 1.
    """

    def __init__(self, subset: int = 1000, subsets: int = 100, seed: int = 0) -> None:
        super().__init__()
        if subset < 2 or subsets < 1:
            raise InputError(f"KID requires at least 1 subset of at least 2 images, got {subsets} of {subset}")
        self.subset, self.subsets, self.seed = subset, subsets, seed

    def compute(self) -> tuple[float, float]:
        """Return mean and standard deviation.

        Raises:
            InputError: if there are fewer images of either kind than in a subset.
        """
        sets = self.sorted_sets()
        for kind, features in zip(("real", "generated"), sets, strict=True):
            check_subset(self.subset, len(features), kind)
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.subsets):
            sampled = [x[torch.randperm(len(x), generator=generator)[: self.subset].to(x.device)] for x in sets]
            values.append(float(polynomial_mmd2(*sampled)))
        return statistics.fmean(values), statistics.pstdev(values)


def check_subset(subset: int, count: int, kind: str) -> None:
    """Raise an :class:`InputError` if there are fewer images than in a subset."""
    if count < subset:
        raise InputError(
            f"KID samples subsets of {subset:,} images, but there are {count:,} {kind} images; set kid_subset to at most "
            f"{count:,}, or to 0 for no KID"
        )
