"""FFHQ or any other photographs: MeshGAN's training data (section 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ReferenceDataModule
from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from datamodules.images.listing import log_images
from datamodules.images.reader import ImageReader
from datamodules.images.sources import ImageError, open_source
from datamodules.images.validation import readable_indices, summarize_errors
from datamodules.renders.cache import RenderCache
from utils.errors import InputError, check_number
from utils.files import cache_key

FFHQ_VERSION = 4  # increase when a change alters the images that are made from the same files


class DecodedImages(Dataset):
    """Images that are decoded on request, in the requesting process.

    Args:
        reader: reader of all images.
        indices: indices of the images that are used.
        mirror: also include the mirror image of item i as item ``len(indices) + i``.
    """

    def __init__(self, reader: ImageReader, indices: Int[np.ndarray, " N"], mirror: bool) -> None:
        self.reader, self.indices, self.mirror = reader, indices, mirror

    def __len__(self) -> int:
        return len(self.indices) * (2 if self.mirror else 1)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        image = torch.from_numpy(self.reader[int(self.indices[index % len(self.indices)])])
        return (image.flip(-1) if index >= len(self.indices) else image,)


class FFHQDataModule(ReferenceDataModule):
    """FFHQ, or any set of photographs.

    ``root`` is one of

    - FFHQ as distributed: a folder with ``thumbnails128x128`` or ``images1024x1024`` (the smaller one that is large enough
      is read), or one of these two, with subfolders 00000 to 69000 of a thousand PNG files each, or without subfolders;
    - a ZIP file of images, as written by the StyleGAN repositories, read without extraction;
    - an LMDB with keys ``{resolution}-{number:05d}`` and ``length`` (requires the package lmdb);
    - any folder of images, searched recursively.

    Which files of a folder or ZIP file are read, and how they are decoded, is the same for all data of images:
    :mod:`datamodules.images.listing` and :func:`datamodules.images.decoding.decode`. One line says how many are read and how
    many files are left out and why. Images are sorted by name. Grey images become RGB and a fully opaque alpha channel is
    dropped. Transparent images, other modes, mixed sizes and unreadable files are errors that name and count the files,
    raised before the first step or at the latest when training reaches them. ``on_corrupt: skip`` decodes all images before
    the first training and leaves out the unreadable ones. Batches are ``[images (B, 3, S, S)]``, floats in [0, 1] on the
    device.

    The official thumbnails were made with an undocumented filter. StyleGAN trained on box averages of ``images1024x1024``.
    FIDs of the two are not comparable.

    Args:
        root: path of the images.
        image_size: image size S; images are never enlarged.
        held_out: number of images at the end that are excluded from training and used as the reference of FID: 10,000 is
            FFHQ's own division into 60,000 and 10,000. With 0, all images are used for training, as in MeshGAN and StyleGAN,
            and the reference is chosen from them.
        reference_images: maximum number of reference images for FID.
        mirror: also train on the mirrored images. The reference never includes them.
        center_crop: crop the central square of images that are not square or not of one size, instead of raising an error.
        expected: number of images that FFHQ as distributed must have; smaller for a copy of the first ones.
        on_corrupt: what to do with images that cannot be read: ``raise`` an error that names them, or ``skip`` and log them.
        kid_subset: number of images per KID subset; None for half the reference, at most 1,000.
        batch_size: global batch size.
        batch_changes: see :class:`RunDataModule`.
        total_kimg: length of the run in thousands of real images.
        cache_dir: folder of the resized reference images; default ``$UNRENDER_CACHE`` or ``~/.cache/unrender``.
        num_workers: number of decoding processes. A 1024² PNG takes about 20 ms.
        seed: seed of the order.
    """

    channels = 3

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
        for name, value in (("image_size", image_size), ("reference_images", reference_images), ("expected", expected)):
            check_number(name, value, at_least=1)
        if kid_subset:
            check_number("kid_subset, if not 0,", kid_subset, at_least=2)
        check_on_corrupt(on_corrupt)
        check_number("held_out", held_out, at_least=0)
        self.root, self.image_size, self.expected = Path(root).expanduser(), image_size, expected
        self.held_out, self.mirror, self.center_crop = held_out, mirror, center_crop
        self.cache_dir, self.on_corrupt = cache_dir, on_corrupt
        self._max_references, self._kid_subset = reference_images, kid_subset

    @cached_property
    def reader(self) -> ImageReader:
        """Reader of all images."""
        source = open_source(self.root, self.image_size, self.expected)
        reader = ImageReader(source, self.image_size, self.center_crop, self.on_corrupt)
        if self.held_out >= len(reader):
            raise InputError(
                f"{self.root} has {len(reader):,} images, so held_out {self.held_out:,} leaves none for training; "
                "decrease held_out"
            )
        return reader

    @cached_property
    def indices(self) -> Int[np.ndarray, " N"]:
        """Indices of the images that are used: all, or all readable ones."""
        if self.on_corrupt == "raise":
            source = self.reader.source
            log_images(source.root, len(source), source.left_out, [])
            return np.arange(len(source))
        return readable_indices(self.reader, self.cache_dir)

    @property
    def training_indices(self) -> Int[np.ndarray, " n"]:
        """Indices of the training images. Unreadable images do not shift the border to the held-out ones."""
        indices = self.indices[self.indices < len(self.reader) - self.held_out]
        if not len(indices):
            raise InputError(f"{self.root}: none of the training images can be read; replace them")
        return indices

    @property
    def reference_indices(self) -> list[int]:
        """Indices of the reference images, spread evenly over the held-out images, or over all if none are held out."""
        first, indices = self._reference_candidates
        count = self.needed(self.reference_images)
        chosen = np.linspace(first, first + len(indices) - 1, count).round().astype(int) - first
        return indices[chosen].tolist()

    @property
    def reference_images(self) -> int:  # type: ignore[override]  # known only after the images are found
        return min(self._max_references, len(self._reference_candidates[1]))

    @property
    def _reference_candidates(self) -> tuple[int, Int[np.ndarray, " n"]]:
        """The border to the held-out images (0 if none are held out), and the indices that the reference is chosen from."""
        first = len(self.reader) - self.held_out if self.held_out else 0
        indices = self.indices[self.indices >= first]
        if not len(indices):
            raise InputError(f"{self.root}: none of the {self.held_out:,} held-out images can be read; replace them")
        return first, indices

    @property
    def reference_key(self) -> str:
        return self._cache.folder.name

    def caches(self) -> list[RenderCache]:
        return [self._cache]

    def prepare_data(self) -> None:
        if self._stage == "predict":
            return
        try:
            self._cache.prepare()
        except ImageError as error:
            source = open_source(self.root, self.image_size, self.expected)
            raise summarize_errors(source, self.image_size, self.center_crop, self.on_corrupt, error) from error

    def reference(self) -> UInt8[Tensor, "N 3 S S"]:
        return self.cached("reference", lambda: torch.from_numpy(self._cache.load()))

    def sample_images(self, count: int) -> tuple[UInt8[Tensor, "n 3 S S"], UInt8[Tensor, "m 3 S S"]] | None:
        if not self.held_out:
            return None
        train = np.stack([self.reader[i] for i in self.training_indices[:count].tolist()])
        return torch.from_numpy(train), self.reference()[:count]

    def train_dataloader(self) -> DataLoader:
        dataset = DecodedImages(self.reader, self.training_indices, self.mirror)
        return self.training_loader(dataset, len(dataset))

    @property
    def _cache(self) -> RenderCache:
        """The resized reference images, because decoding them for each evaluation would take longer than the evaluation."""
        return self.cached("cache", self._make_cache)

    def _make_cache(self) -> RenderCache:
        indices = self.reference_indices
        parts = (FFHQ_VERSION, self.reader.source.cache_key(), self.image_size, self.center_crop, indices)
        return RenderCache(
            self.cache_folder(self.cache_dir) / "pictures" / cache_key(*parts),
            len(indices),
            (3, self.image_size, self.image_size),
            lambda batch: np.stack([self.reader[indices[i]] for i in batch]),
            f"reading {self.root.name}",
        )
