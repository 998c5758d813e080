"""Decoding of a source's images into upright square images of one size."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.alpha_masked import area_weights
from datamodules.images.decoding import (
    OnCorrupt,
    UndecodableError,
    UnsupportedModeError,
    decode,
    open_image,
    upright_size,
)
from datamodules.images.sources import CorruptImageError, ImageError, ImageSource
from utils.errors import InputError


class ImageReader:
    """Decoded images of a source, cropped and box-averaged to one size.

    Grey images become RGB and a fully opaque alpha channel is dropped; see :func:`~datamodules.images.decoding.decode`.

    Args:
        source: the encoded images.
        image_size: image size S.
        center_crop: crop the central square of images that are not square; they may then differ in size.
        on_corrupt: whether an unreadable first image is an error (raise), or the size is taken from the first readable
            image (skip).

    Raises:
        InputError: the first image is not square, smaller than S, or unreadable.
    """

    def __init__(
        self, source: ImageSource, image_size: int, center_crop: bool = False, on_corrupt: OnCorrupt = "raise"
    ) -> None:
        self.source, self.image_size, self.center_crop = source, image_size, center_crop
        self.size = source.size
        first, (width, height) = self._find_first(on_corrupt)
        if width != height and not center_crop:
            raise InputError(
                f"{source.root} has images of {width}×{height}; set center_crop to use their central squares"
            )
        if min(width, height) < image_size:
            raise ImageError(
                f"{source.root} has images of {width}×{height}, smaller than image_size {image_size}, such as "
                f"{source.name(first)}"
            )
        if not center_crop:
            self.size = (width, height)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "3 S S"]:
        """Return image i.

        Raises:
            CorruptImageError: the image cannot be read.
            ImageError: the image has a different size than the first, is too small, or is partly transparent.
        """
        image = self._decode_checked(index)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side % self.image_size == 0:
            pixels = np.asarray(image.reduce(side // self.image_size))
        else:
            weights = area_weights(side, self.image_size, side / self.image_size)
            rows = np.tensordot(weights, np.asarray(image, np.float32), (1, 0))
            pixels = np.tensordot(weights, rows, (1, 1)).swapaxes(0, 1).round().clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def check(self, index: int) -> None:
        """Decode image i and discard it; raises the same errors as indexing."""
        self._decode_checked(index)

    def _decode_checked(self, index: int) -> Image.Image:
        image = self._decode(index)
        if min(image.size) < self.image_size:
            kind = f"smaller than image_size {self.image_size}"
            raise ImageError(f"{self._locate(index)} is {image.width}×{image.height}, {kind}; remove it", kind)
        return image

    def _find_first(self, on_corrupt: OnCorrupt) -> tuple[int, tuple[int, int]]:
        """Return the index and the size of the first readable image."""
        for index in range(len(self)):
            try:
                return index, self._decode(index).size
            except CorruptImageError:
                if on_corrupt == "raise":
                    raise
        raise InputError(f"none of {len(self):,} images in {self.source.root} can be read; replace them")

    def _decode(self, index: int) -> Image.Image:
        content = self.source.read(index)
        try:
            with open_image(content) as image:
                self._check_size(index, upright_size(image))  # before decompression
                return self._to_rgb(index, decode(image))
        except UnsupportedModeError as error:
            kind = f"of mode {error.mode} instead of 8-bit RGB or grey"
            raise ImageError(f"{self._locate(index)} {error}", kind) from error
        except UndecodableError as error:
            raise CorruptImageError(f"{self._locate(index)} {error}; replace or remove it") from error

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        width, height = size
        if self.size is not None and size != self.size:
            expected = f"{self.size[0]}×{self.size[1]}"
            raise ImageError(
                f"{self._locate(index)} is {width}×{height}, expected {expected}; "
                "use images of one size, or set center_crop to use their central squares",
                f"of another size than {expected}",
            )

    def _to_rgb(self, index: int, image: Image.Image) -> Image.Image:
        if "A" in image.getbands() and np.asarray(image.getchannel("A")).min() < 255:
            raise ImageError(
                f"{self._locate(index)} is partly transparent; composite it over a background, "
                "or use chanterelle.yaml, which is for photographs with a transparent background",
                "partly transparent",
            )
        return image.convert("RGB")

    def _locate(self, index: int) -> str:
        return f"{self.source.root}: {self.source.name(index)}"
