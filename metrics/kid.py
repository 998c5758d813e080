"""Kernel Inception Distance, which unlike FID is meaningful for tens or hundreds of images."""

from __future__ import annotations

import statistics

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

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


class KernelDistance(Metric):
    """Mean and standard deviation of :func:`polynomial_mmd2` over random subsets of the features, in float64.

    Features are sorted by their sums, and subsets are sampled without replacement. The result therefore depends only on the
    two sets, not on batches or the number of processes.

    Args:
        subset: images of each kind per subset.
        subsets: number of subsets.
        seed: of the sampling.

    Raises:
        InputError: if ``subset`` is less than 2 or ``subsets`` less than 1.
    """

    full_state_update = False
    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(self, subset: int = 1000, subsets: int = 100, seed: int = 0) -> None:
        super().__init__()
        if subset < 2 or subsets < 1:
            raise InputError(f"KID requires at least 1 subset of at least 2 images, got {subsets} of {subset}")
        self.subset, self.subsets, self.seed = subset, subsets, seed
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], real: bool) -> None:
        (self.real_features if real else self.fake_features).append(features.double())

    def compute(self) -> tuple[float, float]:
        """Return mean and standard deviation.

        Raises:
            InputError: if there are fewer images of either kind than in a subset.
        """
        sets = []
        for kind, batches in (("real", self.real_features), ("generated", self.fake_features)):
            features = dim_zero_cat(batches) if len(batches) else torch.zeros(0, 1)
            check_subset(self.subset, len(features), kind)
            sets.append(features[features.sum(1).argsort()])
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.subsets):
            sampled = [x[torch.randperm(len(x), generator=generator)[: self.subset].to(x.device)] for x in sets]
            values.append(float(polynomial_mmd2(*sampled)))
        return statistics.fmean(values), statistics.pstdev(values)

    def reset(self) -> None:
        """Remove the generated images; keep the real ones."""
        real = list(self.real_features)  # torchmetrics clears its list in place
        super().reset()
        self.real_features = real


def check_subset(subset: int, count: int, kind: str) -> None:
    """Raise an :class:`InputError` if there are fewer images than in a subset."""
    if count < subset:
        raise InputError(
            f"KID samples subsets of {subset:,} images, but there are {count:,} {kind} images; set kid_subset to at most "
            f"{count:,}, or to 0 for FID only"
        )
