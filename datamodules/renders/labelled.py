"""Labelled renders of several shape sources, for training the classifier whose features FID uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from datamodules.base import RunDataModule
from datamodules.renders.cache import RenderCache
from datamodules.renders.shapenet import shape_renders
from datamodules.shapes import MergedShapes, ShapeNetShapes, ShapeSource, Split, VoxelArchive, archive_classes
from renderers import Renderer, ViewDistribution
from utils.errors import InputError, check_number

# ShapeNetCore's largest categories. All but two of its cellphones are also telephones, so they are one class here, which
# makes bottles the 21st.
LARGEST_CLASSES = {
    "airplane": ["02691156"],
    "bathtub": ["02808440"],
    "bench": ["02828884"],
    "bottle": ["02876657"],
    "bus": ["02924116"],
    "cabinet": ["02933112"],
    "car": ["02958343"],
    "chair": ["03001627"],
    "clock": ["03046257"],
    "couch": ["04256520"],
    "display": ["03211117"],
    "faucet": ["03325088"],
    "flowerpot": ["03991062"],
    "guitar": ["03467517"],
    "jar": ["03593526"],
    "lamp": ["03636649"],
    "loudspeaker": ["03691459"],
    "rifle": ["04090263"],
    "table": ["04379243"],
    "telephone": ["04401088", "02992529"],
    "watercraft": ["04530566"],
}


class RenderClassesDataModule(RunDataModule):
    """Renders labelled with the class of their shape.

    Batches are ``[images (B, C, H, W), labels (B,)]``. Labels index the class names in alphabetical order.

    Args:
        classes: maps class names to training shapes.
        validation_classes: maps the same names to held-out shapes.
        renderer: renderer of the images.
        views: distribution of viewpoints.
        images_per_class: number of training images per class.
        validation_images_per_class: number of held-out images per class.
        batch_size, total_kimg, num_workers, seed: see :class:`RunDataModule`.
        cache_dir: folder of the render caches; default ``$UNRENDER_CACHE`` or ``~/.cache/unrender``.

    Raises:
        InputError: ``classes`` and ``validation_classes`` have different names.
    """

    def __init__(
        self,
        classes: dict[str, ShapeSource],
        validation_classes: dict[str, ShapeSource],
        renderer: Renderer,
        views: ViewDistribution,
        images_per_class: int = 5000,
        validation_images_per_class: int = 500,
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
        check_number("images_per_class", images_per_class, at_least=1)
        check_number("validation_images_per_class", validation_images_per_class, at_least=1)
        self.classes, self.validation_classes = classes, validation_classes
        self.renderer, self.views, self.cache_dir = renderer, views, cache_dir
        self.images_per_class, self.validation_images_per_class = images_per_class, validation_images_per_class

    @property
    def class_names(self) -> list[str]:
        return sorted(self.classes)

    def caches(self) -> list[RenderCache]:
        return [self._cache(name, train) for train in (True, False) for name in self.class_names]

    def prepare_data(self) -> None:
        """Check that the model has the same classes, then render what is missing.

        Raises:
            InputError: the model has other classes.
        """
        module = self.trainer.lightning_module if self.trainer else None
        expected = getattr(module, "classes", self.class_names)
        if expected != self.class_names:
            differences = sorted(set(expected) ^ set(self.class_names)) or ["their order"]
            raise InputError(
                f"the classifier has {len(expected)} classes and the data {len(self.class_names)}; they differ in "
                f"{', '.join(differences[:5])}; list the data's classes in alphabetical order"
            )
        for cache in self.caches():
            cache.prepare()

    def train_dataloader(self) -> DataLoader:
        dataset = self._dataset(train=True)
        return self.training_loader(dataset, len(dataset))

    def val_dataloader(self) -> DataLoader:
        dataset = self._dataset(train=False)
        return self.evaluation_loader(dataset, len(dataset))

    def _dataset(self, train: bool) -> TensorDataset:
        images = [self._cache(name, train).load() for name in self.class_names]
        labels = torch.arange(len(images)).repeat_interleave(self._count(train))
        return TensorDataset(torch.from_numpy(np.concatenate(images)), labels)

    def _count(self, train: bool) -> int:
        count = self.images_per_class if train else self.validation_images_per_class
        return self.needed(count, len(self.classes))

    def _cache(self, name: str, train: bool) -> RenderCache:
        return shape_renders(
            (self.classes if train else self.validation_classes)[name],
            self.renderer,
            self.views,
            self._count(train),
            2 * self.seed + (0 if train else 1),
            self.cache_folder(self.cache_dir),
            f"rendering {name} {'training' if train else 'held-out'} images",
        )


class ShapeNetClassesDataModule(RenderClassesDataModule):
    """Renders of ShapeNetCore's 21 largest classes, for IG-GAN's FID (supplement B.2).

    Models are identified by their ids and held out by a hash of them. A model that several classes list is excluded from
    all of them.

    Args:
        root: the unpacked folder, which contains one folder per synset.
        renderer: renderer of the images.
        views: distribution of viewpoints.
        voxel_size: voxels per edge.
        kind: ``solid`` or ``surface`` binvox files (version 2 only), or ``obj``.
        test_fraction: fraction of the models that is held out.
        **options: see :class:`RenderClassesDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        renderer: Renderer,
        views: ViewDistribution,
        voxel_size: int = 64,
        kind: Literal["solid", "surface", "obj"] = "solid",
        test_fraction: float = 0.2,
        **options: Any,
    ) -> None:
        def classes(split: Split) -> dict[str, ShapeSource]:
            parts = {
                name: [ShapeNetShapes(root, synset, voxel_size, kind, split, test_fraction) for synset in synsets]
                for name, synsets in LARGEST_CLASSES.items()
            }
            others = {name: [x for other, y in parts.items() if other != name for x in y] for name in parts}
            return {name: MergedShapes(sources, others[name]) for name, sources in parts.items()}

        super().__init__(
            classes=classes("train"), validation_classes=classes("test"), renderer=renderer, views=views, **options
        )


class ArchiveClassesDataModule(RenderClassesDataModule):
    """Renders of the classes of a voxel archive, such as ModelNet10's ten.

    Args:
        path: the ``.npz`` file, see :class:`datamodules.shapes.VoxelArchive`.
        renderer: renderer of the images.
        views: distribution of viewpoints.
        up: the file's vertical axis.
        **options: see :class:`RenderClassesDataModule`.
    """

    def __init__(
        self, path: str | Path, renderer: Renderer, views: ViewDistribution, up: Literal["y", "z"] = "z", **options: Any
    ) -> None:
        def classes(split: Split) -> dict[str, ShapeSource]:
            return {name: VoxelArchive(path, name, split, up) for name in archive_classes(path)}

        super().__init__(
            classes=classes("train"), validation_classes=classes("test"), renderer=renderer, views=views, **options
        )
