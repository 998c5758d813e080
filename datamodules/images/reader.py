"""Images of a source, decoded, upright, square and of one size."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.alpha_masked import area_weights
from datamodules.images.decoding import OnCorrupt, UndecodableError, decoding, open_image
from datamodules.images.sources import CorruptImageError, ImageError, ImageSource
from renderers import InputError

ORIENTATION = 0x0112  # EXIF's key
UPRIGHT = {  # EXIF's values
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [UPRIGHT[value] for value in (5, 6, 7, 8)]  # width and height change places


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings an image upright, as the camera noted; None for nothing."""
    if "exif" not in image.info:
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # a damaged note, of an image that may be whole
        return None


class ImageReader:
    """Decoded images of a source, cropped and averaged to one size.

    Grey images become grey RGB; an alpha channel that hides nothing is dropped; a camera's note (EXIF) on how it was
    held is followed.

    Args:
        source: where they come from.
        image_size: S.
        center_crop: cut the middle square out of images that are not square; then they may be of several sizes.
        on_corrupt: whether the first image may be one that cannot be read (skip); the next then tells the size.

    Raises:
        InputError: a first image that is not square, smaller than S, or that cannot be read.
    """

    def __init__(
        self, source: ImageSource, image_size: int, center_crop: bool = False, on_corrupt: OnCorrupt = "raise"
    ) -> None:
        self.source, self.image_size, self.center_crop = source, image_size, center_crop
        self.size = source.size
        first, self.size = self._first(on_corrupt)
        width, height = self.size
        if width != height and not center_crop:
            raise InputError(f"{source.root} holds images of {width}×{height}; set center_crop to use their middle")
        if min(width, height) < image_size:
            raise ImageError(
                f"{source.root} holds images of {width}×{height}, smaller than image_size {image_size}, such as "
                f"{source.name(first)}"
            )
        if center_crop:
            self.size = source.size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "3 S S"]:
        """Image i.

        Raises:
            CorruptImageError: it cannot be read.
            ImageError: it is of another size than the first, or too small, or has transparent parts.
        """
        image = self._large_enough(index)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side % self.image_size == 0:
            pixels = np.asarray(image.reduce(side // self.image_size))  # means of blocks
        else:
            weights = area_weights(side, self.image_size, side / self.image_size)
            rows = np.tensordot(weights, np.asarray(image, np.float32), (1, 0))
            pixels = np.tensordot(weights, rows, (1, 1)).swapaxes(0, 1).round().clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def check(self, index: int) -> None:
        """Decode image i, to find out whether it can be; raises what indexing would."""
        self._large_enough(index)

    def _large_enough(self, index: int) -> Image.Image:
        image = self._decode(index)
        if min(image.size) < self.image_size:
            small = f"smaller than image_size {self.image_size}"
            raise ImageError(f"{self._where(index)} is {image.width}×{image.height}, {small}; remove it", small)
        return image

    def _first(self, on_corrupt: OnCorrupt) -> tuple[int, tuple[int, int]]:
        """The number and the size of the first image that can be read."""
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
                turn = _turn(image)
                self._check_size(index, image.size[::-1] if turn in SIDEWAYS else image.size)  # before it is unpacked
                with decoding():
                    image.load()
                    rgb = self._as_rgb(index, image)
                    return rgb if turn is None else rgb.transpose(turn)
        except UndecodableError as error:
            raise CorruptImageError(f"{self._where(index)} {error}; replace or remove it") from error

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        width, height = size
        if self.size is not None and size != self.size:
            expected = f"{self.size[0]}×{self.size[1]}"
            raise ImageError(
                f"{self._where(index)} is {width}×{height} where {expected} is expected; "
                "images must be of one size, or set center_crop to use the middle of each",
                f"of another size than {expected}",
            )

    def _as_rgb(self, index: int, image: Image.Image) -> Image.Image:
        if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] < 255:
                raise ImageError(
                    f"{self._where(index)} is partly transparent; lay it over a background, "
                    "or use chanterelle.yaml, for photographs with a transparent background",
                    "partly transparent",
                )
        elif image.mode not in ("1", "L", "P", "RGB"):
            deep = f"in mode {image.mode}"
            raise ImageError(
                f"{self._where(index)} is {deep}; make it 8-bit RGB or grey",
                f"{deep} where 8-bit RGB or grey is wanted",
            )
        return image.convert("RGB")

    def _where(self, index: int) -> str:
        return f"{self.source.root}: {self.source.name(index)}"
