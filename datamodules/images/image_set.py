"""Sets of images on disk to compare: a folder of files or a cache of renders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from datamodules.images.decoding import (
    OnCorrupt,
    UndecodableError,
    UnsupportedModeError,
    abbreviate,
    check_on_corrupt,
    decode,
    open_image,
    upright_size,
)
from datamodules.images.listing import log_images
from datamodules.images.sources import CorruptImageError, ImageSource, open_files
from datamodules.renders.cache import find_cache
from utils.errors import InputError

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


class ImageSet(ABC):
    """Images of one size.

    Attributes:
        folder: folder of the images.
        shape: (C, H, W) of an image, with one channel if all are grey and three otherwise.
    """

    folder: Path
    shape: tuple[int, int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """Yield all images in batches of ``size``.

        Raises:
            InputError: files cannot be read; the message counts and names them.
        """


def open_images(folder: str | Path, on_corrupt: OnCorrupt = "raise") -> ImageSet:
    """Open a folder of images, which is searched recursively, a ZIP file of images, or a cache of renders.

    Args:
        folder: path of the images.
        on_corrupt: whether unreadable images are an error (raise), or are skipped and logged (skip).

    Raises:
        InputError: the folder does not exist or has no images, the images differ in size, or files cannot be read.
    """
    check_on_corrupt(on_corrupt)
    folder = Path(folder).expanduser()
    if folder.is_dir() and (cache := find_cache(folder)) is not None:
        try:
            return _LoadedImages(folder, torch.from_numpy(cache.load()))
        except InputError as error:
            raise InputError(f"the renders in {folder} are incomplete: {error}") from error
    return EncodedImages(open_files(folder, " and is not a cache of renders"), on_corrupt)


class _LoadedImages(ImageSet):
    """Images in memory."""

    def __init__(self, folder: Path, images: UInt8[Tensor, "N C H W"]) -> None:
        self.folder, self.images = folder, images
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        yield from self.images.split(size)


class EncodedImages(ImageSet):
    """Images of a folder or a ZIP file. Transparent images are composited over black, like renders.

    Args:
        source: the encoded images.
        on_corrupt: see :func:`open_images`; ``skip`` decodes all files at construction.

    Raises:
        InputError: the images differ in size, or files cannot be read or used.
    """

    def __init__(self, source: ImageSource, on_corrupt: OnCorrupt = "raise") -> None:
        self.folder, self.source = source.root, source
        sizes: dict[tuple[int, int], list[int]] = {}
        unreadable, unsupported, grey = [], [], True
        for i in range(len(source)):
            try:
                with open_image(source.header(i)) as image:
                    mode, size = image.mode, upright_size(image)
                    if on_corrupt == "skip":
                        decode(image)
                grey &= mode in GREY_MODES
                sizes.setdefault(size, []).append(i)
            except UnsupportedModeError:
                unsupported.append(i)
            except (UndecodableError, CorruptImageError):
                unreadable.append(i)
        self._check(unsupported, "are not 8-bit RGB or 8- or 16-bit grey", "convert them")
        if on_corrupt == "raise":
            self._check(unreadable)
        log_images(self.folder, len(source), source.left_out, self._names(unreadable))
        self.indices = sorted(index for group in sizes.values() for index in group)
        if len(sizes) > 1:
            counts = Counter({size: len(group) for size, group in sizes.items()}).most_common()
            listed = ", ".join(f"{n:,} of {w}×{h} ({source.name(sizes[w, h][0])})" for (w, h), n in counts[:3])
            raise InputError(f"{self.folder} has images of {len(sizes)} sizes, {listed}; resize them to one size")
        ((width, height),) = sizes
        self.shape = (1 if grey else 3, height, width)

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        batch: list[np.ndarray] = []
        for i, index in enumerate(self.indices):
            try:
                batch.append(self.read(index))
            except (UndecodableError, CorruptImageError):
                self._check([index, *self._unreadable(self.indices[i + 1 :])])
            if len(batch) == size or i == len(self) - 1:
                yield torch.from_numpy(np.stack(batch))
                batch = []

    def read(self, index: int) -> UInt8[np.ndarray, "C H W"]:
        """Decode one image.

        Raises:
            UndecodableError: the file is corrupt.
            CorruptImageError: the file cannot be read.
        """
        with open_image(self.source.header(index)) as image:
            image = decode(image)
        if "A" in image.getbands():
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
        pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
        return pixels[None] if self.shape[0] == 1 else pixels.transpose(2, 0, 1)

    def _unreadable(self, indices: Iterable[int]) -> list[int]:
        unreadable = []
        for index in indices:
            try:
                self.read(index)
            except (UndecodableError, CorruptImageError):
                unreadable.append(index)
        return unreadable

    def _check(self, refused: list[int], problem: str = "cannot be read", fix: str = "remove or replace them") -> None:
        if refused:
            raise InputError(
                f"{len(refused):,} of {len(self.source):,} images in {self.folder} {problem}: "
                f"{abbreviate(self._names(refused))}; {fix}"
            )

    def _names(self, indices: list[int]) -> list[str]:
        return [self.source.name(index) for index in indices]
