"""Labelled renders of several shape sources, to train the classifier whose features FID compares."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.base import RunDataModule
from datamodules.render_cache import RenderCache
from datamodules.renders import shape_renders
from datamodules.shapes import ShapeSource
from renderers import InputError, Renderer, ViewDistribution


class RenderClassesDataModule(RunDataModule):
    """Renders with the name of the source that each shape came from.

    Batches are ``[pictures (B, C, H, W), labels (B,)]``; labels index the class names in alphabetical order.

    Args:
        classes: class name to training shapes.
        validation_classes: the same names to held-out shapes.
        renderer: draws them.
        views: where they are seen from.
        pictures_per_class: for training.
        validation_pictures_per_class: held out.
        batch_size, total_kimg, num_workers, seed: see :class:`RunDataModule`.
        cache_dir: where renders are kept; default $UNRENDER_CACHE or ~/.cache/unrender.
    """

    def __init__(
        self,
        classes: dict[str, ShapeSource],
        validation_classes: dict[str, ShapeSource],
        renderer: Renderer,
        views: ViewDistribution,
        pictures_per_class: int = 5000,
        validation_pictures_per_class: int = 500,
        batch_size: int = 64,
        total_kimg: float = 200,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        if set(classes) != set(validation_classes):
            raise InputError(
                f"classes {sorted(classes)} and validation_classes {sorted(validation_classes)} must be the same"
            )
        self.classes, self.validation_classes = classes, validation_classes
        self.renderer, self.views, self.cache_dir = renderer, views, cache_dir
        self.counts = {True: pictures_per_class, False: validation_pictures_per_class}

    @property
    def class_names(self) -> list[str]:
        return sorted(self.classes)

    def prepare_data(self) -> None:
        for train in (True, False):
            for name in self.class_names:
                self._cache(name, train).prepare()

    def train_dataloader(self) -> DataLoader:
        dataset = self._dataset(train=True)
        return self.stream(dataset, len(dataset))

    def val_dataloader(self) -> DataLoader:
        dataset = self._dataset(train=False)
        return self.share(dataset, len(dataset))

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def _dataset(self, train: bool) -> TensorDataset:
        pictures = [self._cache(name, train).load() for name in self.class_names]
        labels: Tensor = torch.arange(len(pictures)).repeat_interleave(self.counts[train])
        return TensorDataset(torch.from_numpy(np.concatenate(pictures)), labels)

    def _cache(self, name: str, train: bool) -> RenderCache:
        return shape_renders(
            (self.classes if train else self.validation_classes)[name],
            self.renderer,
            self.views,
            self.counts[train],
            2 * self.seed + (0 if train else 1),
            self.cache_dir,
            f"rendering {name} {'training' if train else 'held-out'} pictures",
        )
