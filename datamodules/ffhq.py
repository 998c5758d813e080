"""FFHQ, or any photographs: MeshGAN's training data (section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from datamodules.base import RunDataModule
from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from datamodules.images.readable import readable_numbers
from datamodules.images.reader import ImageReader
from datamodules.images.sources import ImageError, open_source
from datamodules.images.validation import complaint
from datamodules.renders.cache import RenderCache
from renderers import InputError
from utils.files import cache_key, cache_root

FFHQ_VERSION = 2  # raise when a change makes other images of the same files


class ReadImages(Dataset):
    """Images decoded as they are asked for, by the process that asks.

    Args:
        reader: of all images.
        numbers: of those that are used.
        mirror: item ``len(numbers) + i`` is item i mirrored.
    """

    def __init__(self, reader: ImageReader, numbers: Int[np.ndarray, " N"], mirror: bool) -> None:
        self.reader, self.numbers, self.mirror = reader, numbers, mirror

    def __len__(self) -> int:
        return len(self.numbers) * (2 if self.mirror else 1)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        image = torch.from_numpy(self.reader[int(self.numbers[index % len(self.numbers)])])
        return (image.flip(-1) if index >= len(self.numbers) else image,)


class FFHQDataModule(RunDataModule):
    """Photographs of FFHQ, or of anything, made small by averaging over boxes.

    ``root`` is one of

    - FFHQ as distributed: a folder that holds ``thumbnails128x128`` or ``images1024x1024`` (the smaller that will do), or
      one of these, with sub-folders 00000 to 69000 of a thousand PNG files each;
    - a ZIP file of PNG or JPEG files, as the StyleGAN repositories make them, read without extraction;
    - an LMDB with keys ``{resolution}-{number:05d}`` and ``length`` (needs the package lmdb);
    - any folder of PNG and JPEG files, at any depth.

    Images are in the order of their names. Grey ones become RGB, an alpha channel that hides nothing is dropped, a
    camera's note on how it was held is followed. Transparent images, other modes, several sizes, and files that cannot
    be read are refused, counted and named, before the first step or at the latest when training reaches them;
    ``on_corrupt: skip`` decodes all of them before the first training, and leaves out those that cannot be read. Batches
    are ``[images (B, 3, S, S)]``, floats in [0, 1] on the device.

    The official thumbnails were made by a filter that is not documented; means over boxes of ``images1024x1024`` are what
    StyleGAN trained on. FIDs of the two differ.

    Args:
        root: where the images are.
        image_size: S; images are never enlarged.
        held_out: how many of the last images are kept from training and are the reference of FID: 10,000 is FFHQ's own
            division into 60,000 and 10,000. 0 trains on all, as MeshGAN and StyleGAN do, and the reference is drawn from
            them.
        reference_images: how many images FID compares; fewer if there are no more.
        mirror: train on the mirror images as well; they are never the reference.
        center_crop: cut the middle square out of images that are not square, or of several sizes, rather than refuse
            them.
        expected: how many images FFHQ as distributed must have; smaller for a copy of the first ones.
        on_corrupt: images that cannot be read are refused by name (raise), or left out and counted in the log (skip).
        kid_subset: images a subset of KID's; None for half the reference, at most 1,000.
        batch_size: global batch size.
        batch_changes: see :class:`RunDataModule`.
        total_kimg: length of the run in thousands of real images.
        cache_dir: where reference images are kept, made small; default $UNRENDER_CACHE or ~/.cache/unrender.
        num_workers: processes that decode. A 1024² PNG takes some 20 ms.
        seed: of the order.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 128,
        held_out: int = 0,
        reference_images: int = 10_000,
        mirror: bool = False,
        center_crop: bool = False,
        expected: int = 70_000,
        on_corrupt: OnCorrupt = "raise",
        kid_subset: int | None = None,
        batch_size: int = 32,
        batch_changes: Sequence[tuple[float, int]] = (),
        total_kimg: float = 5000,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed, batch_changes)
        for name, value in (
            ("image_size", image_size),
            ("reference_images", reference_images),
            ("expected", expected),
        ):
            if value < 1:
                raise InputError(f"{name} must be positive, got {value}")
        check_on_corrupt(on_corrupt)
        if held_out < 0:
            raise InputError(f"held_out must be at least 0, got {held_out}")
        self.root, self.image_size, self.expected = Path(root).expanduser(), image_size, expected
        self.held_out, self.mirror, self.center_crop = held_out, mirror, center_crop
        self.cache_dir, self.on_corrupt = cache_dir, on_corrupt
        self._most_references, self._kid_subset = reference_images, kid_subset
        self._reference: Tensor | None = None

    @cached_property
    def reader(self) -> ImageReader:
        """All images, decoded one at a time."""
        source = open_source(self.root, self.image_size, self.expected)
        reader = ImageReader(source, self.image_size, self.center_crop, self.on_corrupt)
        if self.held_out >= len(reader):
            raise InputError(
                f"{self.root} holds {len(reader):,} images, of which held_out {self.held_out:,} leave none to train on"
            )
        return reader

    @cached_property
    def numbers(self) -> Int[np.ndarray, " N"]:
        """Those of the images that are used: all, or all that can be read."""
        return (
            np.arange(len(self.reader)) if self.on_corrupt == "raise" else readable_numbers(self.reader, self.cache_dir)
        )

    @property
    def training_numbers(self) -> Int[np.ndarray, " n"]:
        """Those of the images that are trained on: the division stays where it is, whatever cannot be read."""
        numbers = self.numbers[self.numbers < len(self.reader) - self.held_out]
        if not len(numbers):
            raise InputError(f"{self.root}: of the images to train on none can be read; replace them")
        return numbers

    @property
    def training_images(self) -> int:
        """How many are trained on."""
        return len(self.training_numbers)

    @cached_property
    def reference_numbers(self) -> list[int]:
        """Which images are the reference: spread evenly over those that are held out, or over all."""
        first = len(self.reader) - self.held_out if self.held_out else 0
        numbers = self.numbers[self.numbers >= first]
        if not len(numbers):
            raise InputError(f"{self.root}: of {self.held_out:,} images held out none can be read; replace them")
        count = min(self._most_references, len(numbers))
        places = np.linspace(first, first + len(numbers) - 1, count).round().astype(int) - first
        return numbers[places].tolist()

    @property
    def reference_images(self) -> int:
        """How many images evaluation compares, of each kind."""
        return len(self.reference_numbers)

    @property
    def kid_subset(self) -> int:
        """Images a subset of KID's; 0 for FID alone."""
        return min(1000, self.reference_images // 2) if self._kid_subset is None else self._kid_subset

    @property
    def reference_key(self) -> str:
        """Fingerprint of the reference images, under which their statistics may be kept."""
        return self._cache.folder.name

    def caches(self) -> list[RenderCache]:
        return [self._cache]

    def prepare_data(self) -> None:
        if self.trainer is None or self.trainer.state.fn != "predict":  # it draws from the generator alone
            try:
                self._cache.prepare()
            except ImageError as error:
                source = open_source(self.root, self.image_size, self.expected)
                raise complaint(source, self.image_size, self.center_crop, self.on_corrupt, error) from error

    def reference(self) -> UInt8[Tensor, "N 3 S S"]:
        """The images that FID compares with."""
        if self._reference is None:
            self._reference = torch.from_numpy(self._cache.load())
        return self._reference

    def train_dataloader(self) -> DataLoader:
        dataset = ReadImages(self.reader, self.training_numbers, self.mirror)
        return self.stream(dataset, len(dataset))

    def val_dataloader(self) -> DataLoader:
        return self.share(TensorDataset(self.reference()), self.reference_images)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    @cached_property
    def _cache(self) -> RenderCache:
        """The reference made small: decoding it anew for each evaluation would cost more than the evaluation."""
        numbers = self.reference_numbers
        parts = (FFHQ_VERSION, self.reader.source.cache_key(), self.image_size, self.center_crop, numbers)
        return RenderCache(
            cache_root(self.cache_dir) / "pictures" / cache_key(*parts),
            len(numbers),
            (3, self.image_size, self.image_size),
            lambda indices: np.stack([self.reader[numbers[i]] for i in indices]),
            f"reading {self.root.name}",
        )
