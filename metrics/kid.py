"""Kernel Inception Distance: what FID is for thousands of images, for tens or hundreds."""

from __future__ import annotations

import statistics

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from renderers import InputError


def polynomial_mmd2(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Unbiased squared maximum mean discrepancy for the kernel ``(x·y / d + 1)³`` (Bińkowski et al., 1801.01401).

    The mean of k over distinct pairs of ``real``, plus that of ``fake``, minus twice that over all pairs of one of each; it
    may be negative where the two hardly differ. At least two of each.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(real) + within(fake) - 2 * kernel(real, fake).mean()


class KernelDistance(Metric):
    """Mean and standard deviation of :func:`polynomial_mmd2` over random subsets of the features, in float64.

    Subsets are drawn without replacement from the features in the order of their sums, so that the figure is a function of
    the two sets: neither batches nor the number of processes change it.

    Args:
        subset: images a subset, of either kind.
        subsets: how many.
        seed: of the draws.
    """

    full_state_update = False

    def __init__(self, subset: int = 1000, subsets: int = 100, seed: int = 0) -> None:
        super().__init__()
        if subset < 2 or subsets < 1:
            raise InputError(f"KID needs subsets of at least 2 images, and one of them; got {subsets} of {subset}")
        self.subset, self.subsets, self.seed = subset, subsets, seed
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], real: bool) -> None:
        (self.real_features if real else self.fake_features).append(features.double())

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation.

        Raises:
            InputError: fewer images of either kind than a subset has.
        """
        sets = []
        for kind, kept in (("real", self.real_features), ("generated", self.fake_features)):
            features = dim_zero_cat(kept) if len(kept) else torch.zeros(0, 1)
            check_subset(self.subset, len(features), kind)
            sets.append(features[features.sum(1).argsort()])
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.subsets):
            drawn = [x[torch.randperm(len(x), generator=generator)[: self.subset].to(x.device)] for x in sets]
            values.append(float(polynomial_mmd2(*drawn)))
        return statistics.fmean(values), statistics.pstdev(values)

    def reset(self) -> None:
        """Forget the generated images; the real ones stay."""
        real = list(self.real_features)  # torchmetrics empties its own list
        super().reset()
        self.real_features = real


def check_subset(subset: int, count: int, kind: str) -> None:
    """Raises an :class:`InputError` if there are fewer images than a subset has."""
    if count < subset:
        raise InputError(
            f"KID draws subsets of {subset:,} images and there are {count:,} {kind} ones; set kid_subset to at most "
            f"{count:,}, or to 0 for FID alone"
        )
