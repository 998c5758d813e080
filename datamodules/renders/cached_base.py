"""Base class of data modules whose images are rendered once and cached, or rendered during training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from datamodules.base import ReferenceDataModule
from datamodules.renders.cache import RenderCache


class InfiniteImages(Dataset):
    """Images that are rendered on request, one for every index.

    Args:
        render: maps indices to images ``(n, C, H, W)`` uint8; a picklable function.
    """

    def __init__(self, render: Callable[[list[int]], UInt8[np.ndarray, "n C H W"]]) -> None:
        self.render = render

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor]]:
        return [(image,) for image in torch.from_numpy(self.render(indices))]

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return self.__getitems__([index])[0]


class CachedRenderDataModule(ReferenceDataModule):
    """Training and reference images from render caches. Subclasses define how to render them.

    Attributes:
        images: number of training images, or ``unlimited`` to render new images throughout training without caching them.
        reference_images: number of real and of generated images in an evaluation.
    """

    images: int | str

    @abstractmethod
    def _cache(self, train: bool) -> RenderCache:
        """Return the cache of the training images or of the reference images."""

    @abstractmethod
    def _infinite_dataset(self) -> InfiniteImages:
        """Return the dataset for ``images: unlimited``."""

    @property
    def reference_key(self) -> str:
        return self._cache(train=False).folder.name

    def caches(self) -> list[RenderCache]:
        return [self._cache(train) for train in (True, False) if not (train and self.images == "unlimited")]

    def prepare_data(self) -> None:
        if self._stage == "predict":
            return
        if (self.trainer is None or self._stage == "fit") and self.images != "unlimited":
            self._cache(train=True).prepare()
        self._cache(train=False).prepare()

    def reference(self) -> UInt8[Tensor, "N C H W"]:
        return self.cached("reference", lambda: torch.from_numpy(self._cache(train=False).load()))

    def sample_images(self, count: int) -> tuple[UInt8[Tensor, "n C H W"], UInt8[Tensor, "m C H W"]]:
        if self.images == "unlimited":
            train = torch.stack([image for (image,) in self._infinite_dataset().__getitems__(list(range(count)))])
        else:
            cache = self._cache(train=True)
            cache.prepare()  # validation alone does not
            train = torch.from_numpy(cache.load())[:count]
        return train, self.reference()[:count]

    def train_dataloader(self) -> DataLoader:
        if self.images == "unlimited":
            return self.training_loader(self._infinite_dataset(), None)
        dataset = TensorDataset(torch.from_numpy(self._cache(train=True).load()))
        return self.training_loader(dataset, len(dataset))
