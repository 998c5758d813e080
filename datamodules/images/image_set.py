"""Images as they lie on disk, to be compared: a folder of files, or a cache of renders."""

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
    check_on_corrupt,
    decoding,
    open_image,
    say_skipped,
)
from datamodules.renders.cache import find_cache
from renderers import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


class ImageSet(ABC):
    """Images of one size.

    Attributes:
        folder: where they lie.
        shape: (C, H, W) of each; one channel if all are grey, else three.
    """

    folder: Path
    shape: tuple[int, int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        """All images, ``size`` at a time.

        Raises:
            InputError: naming and counting the files that cannot be read.
        """


def open_images(folder: str | Path, on_corrupt: OnCorrupt = "raise") -> ImageSet:
    """The images of a folder and of the folders within it, or the renders of a cache.

    Args:
        folder: where they lie.
        on_corrupt: whether images that cannot be read are refused (raise), or left out and counted in the log (skip).

    Raises:
        InputError: no such folder, no images in it, images of several sizes, or files that are no images.
    """
    check_on_corrupt(on_corrupt)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}" + ("; it is a file" if folder.is_file() else ""))
    if (cache := find_cache(folder)) is not None:
        try:
            return _Loaded(folder, torch.from_numpy(cache.load()))
        except InputError as error:
            raise InputError(f"the renders in {folder} are not whole: {error}") from error
    return ImageFolder(folder, on_corrupt)


class _Loaded(ImageSet):
    """Images in memory."""

    def __init__(self, folder: Path, images: UInt8[Tensor, "N C H W"]) -> None:
        self.folder, self.images = folder, images
        self.shape = (images.shape[1], images.shape[2], images.shape[3])

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[UInt8[Tensor, "n C H W"]]:
        yield from self.images.split(size)


class ImageFolder(ImageSet):
    """PNG and JPEG files anywhere below a folder, in the order of their paths.

    What is transparent is laid over black, as renders are. Names that begin with a dot are left out.

    Args:
        folder: where they lie.
        on_corrupt: see :func:`open_images`; to skip, all are decoded once before.

    Raises:
        InputError: no images, images of several sizes, or files that are no images.
    """

    def __init__(self, folder: Path, on_corrupt: OnCorrupt = "raise") -> None:
        self.folder = folder
        self.files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not self.files:
            raise InputError(f"{folder} holds no images (png, jpg) and is no cache of renders")
        sizes: dict[tuple[int, int], list[Path]] = {}
        unreadable, grey = [], True
        for file in self.files:
            try:
                with open_image(file) as image, decoding():
                    if on_corrupt == "skip":
                        image.load()
                    sizes.setdefault(image.size, []).append(file)
                    grey &= image.mode in GREY
            except UndecodableError:
                unreadable.append(file)
        if on_corrupt == "raise":
            self._check(unreadable)
        say_skipped(folder, [str(file.relative_to(folder)) for file in unreadable], len(self.files))
        self.files = sorted(set(self.files) - set(unreadable))
        if len(sizes) > 1:
            counts = Counter({size: len(files) for size, files in sizes.items()}).most_common()
            listed = ", ".join(f"{n:,} of {w}×{h} ({sizes[w, h][0].relative_to(folder)})" for (w, h), n in counts[:3])
            raise InputError(f"{folder} holds images of {len(sizes)} sizes, {listed}; make them one size")
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
                self._check([file, *self._damaged(self.files[i + 1 :])])
            if len(batch) == size or i == len(self.files) - 1:
                yield torch.from_numpy(np.stack(batch))
                batch = []

    def read(self, file: Path) -> UInt8[np.ndarray, "C H W"]:
        """One image.

        Raises:
            UndecodableError: a damaged file.
        """
        with open_image(file) as image, decoding():
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
            elif image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
                solid = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", solid.size, (0, 0, 0, 255)), solid)
            pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
        return pixels[None] if self.shape[0] == 1 else pixels.transpose(2, 0, 1)

    def _damaged(self, files: Iterable[Path]) -> list[Path]:
        damaged = []
        for file in files:
            try:
                self.read(file)
            except UndecodableError:
                damaged.append(file)
        return damaged

    def _check(self, unreadable: list[Path]) -> None:
        if unreadable:
            named = ", ".join(str(file.relative_to(self.folder)) for file in unreadable[:5])
            more = f" and {len(unreadable) - 5:,} more" if len(unreadable) > 5 else ""
            raise InputError(
                f"{len(unreadable):,} of {len(self.files):,} images in {self.folder} cannot be read: {named}{more}; "
                "remove or replace them"
            )
