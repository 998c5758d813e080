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
    abbreviate,
    check_on_corrupt,
    decoding,
    has_transparency,
    list_images,
    log_skipped,
    open_image,
)
from datamodules.renders.cache import find_cache
from utils.errors import InputError

GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


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
    """Open a folder of images, which is searched recursively, or a cache of renders.

    Args:
        folder: folder of the images.
        on_corrupt: whether unreadable images are an error (raise), or are skipped and logged (skip).

    Raises:
        InputError: the folder does not exist or has no images, the images differ in size, or files cannot be read.
    """
    check_on_corrupt(on_corrupt)
    folder = Path(folder).expanduser()
    files = list_images(folder)
    if (cache := find_cache(folder)) is not None:
        try:
            return _LoadedImages(folder, torch.from_numpy(cache.load()))
        except InputError as error:
            raise InputError(f"the renders in {folder} are incomplete: {error}") from error
    return ImageFolder(folder, files, on_corrupt)


class _LoadedImages(ImageSet):
    """Images in memory."""

    def __init__(self, folder: Path, images: UInt8[Tensor, "N C H W"]) -> None:
        self.folder, self.images = folder, images
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        yield from self.images.split(size)


class ImageFolder(ImageSet):
    """PNG and JPEG files. Transparent images are composited over black, like renders.

    Args:
        folder: the folder, for messages.
        files: its image files, see :func:`~datamodules.images.decoding.list_images`.
        on_corrupt: see :func:`open_images`; ``skip`` decodes all files at construction.

    Raises:
        InputError: there are no images, the images differ in size, or files cannot be read.
    """

    def __init__(self, folder: Path, files: list[Path], on_corrupt: OnCorrupt = "raise") -> None:
        self.folder, self.files = folder, files
        if not files:
            raise InputError(f"{folder} has no images (png, jpg) and is not a cache of renders; choose another folder")
        sizes: dict[tuple[int, int], list[Path]] = {}
        unreadable, grey = [], True
        for file in files:
            try:
                with open_image(file) as image, decoding():
                    if on_corrupt == "skip":
                        image.load()
                    sizes.setdefault(image.size, []).append(file)
                    grey &= image.mode in GREY_MODES
            except UndecodableError:
                unreadable.append(file)
        if on_corrupt == "raise":
            self._check(unreadable)
        log_skipped(folder, self._names(unreadable), len(files))
        self.files = sorted(set(files) - set(unreadable))
        if len(sizes) > 1:
            counts = Counter({size: len(files) for size, files in sizes.items()}).most_common()
            listed = ", ".join(f"{n:,} of {w}×{h} ({sizes[w, h][0].relative_to(folder)})" for (w, h), n in counts[:3])
            raise InputError(f"{folder} has images of {len(sizes)} sizes, {listed}; resize them to one size")
        ((width, height),) = sizes
        self.shape = (1 if grey else 3, height, width)

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        batch: list[np.ndarray] = []
        for i, file in enumerate(self.files):
            try:
                batch.append(self.read(file))
            except UndecodableError:
                self._check([file, *self._unreadable(self.files[i + 1 :])])
            if len(batch) == size or i == len(self.files) - 1:
                yield torch.from_numpy(np.stack(batch))
                batch = []

    def read(self, file: Path) -> UInt8[np.ndarray, "C H W"]:
        """Decode one image.

        Raises:
            UndecodableError: the file is corrupt.
        """
        with open_image(file) as image, decoding():
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
            elif has_transparency(image):
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
            pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
        return pixels[None] if self.shape[0] == 1 else pixels.transpose(2, 0, 1)

    def _unreadable(self, files: Iterable[Path]) -> list[Path]:
        unreadable = []
        for file in files:
            try:
                self.read(file)
            except UndecodableError:
                unreadable.append(file)
        return unreadable

    def _check(self, unreadable: list[Path]) -> None:
        if unreadable:
            raise InputError(
                f"{len(unreadable):,} of {len(self.files):,} images in {self.folder} cannot be read: "
                f"{abbreviate(self._names(unreadable))}; remove or replace them"
            )

    def _names(self, files: list[Path]) -> list[str]:
        return [str(file.relative_to(self.folder)) for file in files]
