"""What data modules share whose images are drawn once and kept, or drawn as training goes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from datamodules.base import RunDataModule
from datamodules.renders.cache import RenderCache


class CachedRenderDataModule(RunDataModule):
    """Training images and those that FID compares with, from caches of renders; subclasses say how they are drawn.

    Attributes:
        images: a number of training images, or ``unlimited``: drawn as training goes, never kept.
        reference_images: how many images FID compares, of each kind.
    """

    images: int | str
    reference_images: int
    _reference: Tensor | None = None

    @abstractmethod
    def _cache(self, train: bool) -> RenderCache:
        """Where the images are kept, of training or of the reference."""

    @abstractmethod
    def _endless(self) -> Dataset:
        """Image p of an unlimited stream at p."""

    @property
    def reference_key(self) -> str:
        """Fingerprint of the reference images, under which their statistics may be kept."""
        return self._cache(train=False).folder.name

    def caches(self) -> list[RenderCache]:
        return [self._cache(train) for train in (True, False) if not (train and self.images == "unlimited")]

    def prepare_data(self) -> None:
        if self.trainer is not None and self.trainer.state.fn == "predict":
            return  # it draws from the generator alone
        if (self.trainer is None or self.trainer.state.fn == "fit") and self.images != "unlimited":
            self._cache(train=True).prepare()
        self._cache(train=False).prepare()

    def reference(self) -> UInt8[Tensor, "N C H W"]:
        """The images that FID compares with."""
        if self._reference is None:
            self._reference = torch.from_numpy(self._cache(train=False).load())
        return self._reference

    def train_dataloader(self) -> DataLoader:
        if self.images == "unlimited":
            return self.stream(self._endless(), None)
        dataset = TensorDataset(torch.from_numpy(self._cache(train=True).load()))
        return self.stream(dataset, len(dataset))

    def val_dataloader(self) -> DataLoader:
        return self.share(TensorDataset(self.reference()), self.reference_images)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()
