"""Base of metrics that need all features of real and generated images."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class FeatureSets(Metric):
    """Keeps the features of both kinds of images, in float64, and gathers them over ranks. Subclasses define ``compute``."""

    full_state_update = False
    real_features: list[Tensor]
    fake_features: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("real_features", [], dist_reduce_fx="cat")
        self.add_state("fake_features", [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "n d"], real: bool) -> None:
        (self.real_features if real else self.fake_features).append(features.double())

    def sorted_sets(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
        """Return the real and the generated features sorted by their sums.

        So a random subset depends only on the set, not on batches or the number of processes.
        """
        real, fake = (
            dim_zero_cat(batches) if len(batches) else torch.zeros(0, 1)
            for batches in (self.real_features, self.fake_features)
        )
        return real[real.sum(1).argsort()], fake[fake.sum(1).argsort()]

    def reset(self) -> None:
        """Remove the generated images; keep the real ones."""
        real = list(self.real_features)  # torchmetrics clears its list in place
        super().reset()
        self.real_features = real
