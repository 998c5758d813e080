"""Decoding of untrusted image files, of bounded size, to upright 8-bit images."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import PIL
from PIL import Image, features
from PIL.PngImagePlugin import PngImageFile
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from utils.errors import InputError, check_choice
from utils.pillow import grey_to_8_bit, has_16_bit_planes, has_wrong_checksum, png_chunks

OnCorrupt = Literal["raise", "skip"]
# By Pillow's names. A file of any of these formats is read, whichever of these suffixes it has. Pillow's other readers start
# programs (EPS, WMF), guess without a signature (TGA), or are not for photographs (FITS, ICO).
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # MPO is several JPEGs in a file
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
CODECS = ("avif", "jpg", "jpg_2000", "libtiff", "webp", "zlib")  # by the names of PIL.features
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L")
MAX_BYTES = 2**28  # per encoded image
MAX_PIXELS = 2**26  # per decoded image
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {  # EXIF value to the operation that brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [UPRIGHT[value] for value in (5, 6, 7, 8)]  # these exchange width and height

log = logging.getLogger(__name__)


class UndecodableError(Exception):
    """A file that is not a usable image. Its message is a predicate without a subject, such as "cannot be read"."""


class UnsupportedModeError(UndecodableError):
    """An intact image whose pixels have no exact 8-bit grey or RGB values, such as CMYK."""

    def __init__(self, mode: str) -> None:
        super().__init__(f"has mode {mode}; convert it to 8-bit RGB or grey")
        self.mode = mode


@contextmanager
def decoding() -> Iterator[None]:
    """Turn every exception that Pillow raises into an :class:`UndecodableError`; pass our own errors through."""
    try:
        yield
    except (UndecodableError, InputError):
        raise
    except Image.DecompressionBombError as error:
        raise UndecodableError(f"has more pixels than the limit of {MAX_PIXELS / 2**20:.0f} Mi") from error
    except Exception as error:  # decoders raise anything on a corrupt file, including struct.error and MemoryError
        reason = getattr(error, "strerror", None)
        raise UndecodableError(
            f"cannot be read ({reason})" if reason else "is corrupt or not of a supported image format"
        ) from error


def read_encoded(path: Path) -> bytes:
    """Read an image file without decoding it.

    Raises:
        UndecodableError: the file cannot be read or is too large.
    """
    with decoding():
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UndecodableError(f"is {size / 2**20:,.0f} MiB, larger than the limit of {MAX_BYTES / 2**20:.0f} MiB")
        return path.read_bytes()


def open_image(file: bytes | Path) -> Image.Image:
    """Read the header of an image of one of the :data:`FORMATS`; :func:`decode` decodes it.

    Raises:
        UnsupportedModeError: the image is not 8-bit RGB, 8- or 16-bit grey, or a palette, with or without alpha.
        UndecodableError: the file is of another format, or has too many pixels.
    """
    with decoding():
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats())
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise UndecodableError(
                f"has {image.width}×{image.height} pixels, more than the limit of {MAX_PIXELS / 2**20:.0f} Mi"
            )
        # Pillow opens a PGM of more than 8 bits as "I", scaled to 16 bits.
        if image.mode not in MODES and (image.mode, image.format) != ("I", "PPM"):
            image.close()
            raise UnsupportedModeError(image.mode)
        if has_16_bit_planes(image):
            image.close()
            raise UnsupportedModeError("16-bit RGB in separate planes")
        if isinstance(image, PngImageFile) and "transparency" in image.info:
            _scale_transparency(image)
        return image


def decode(image: Image.Image) -> Image.Image:
    """Decode an opened image to mode L, LA, RGB or RGBA, and apply its EXIF orientation.

    Images with transparency, such as palettes with transparent entries, have an alpha channel. 16-bit grey is scaled to 8
    bits. The first frame of an animation or of a file with several pages is read.

    Raises:
        UndecodableError: the file is corrupt.
    """
    with decoding():
        if getattr(image, "is_animated", False) and image.format != "MPO":  # phones append previews to an MPO
            _log_first_frame()
        _load(image)
        transpose = _upright_transpose(image)
        decoded = _to_8_bit(image)
        return decoded if transpose is None else decoded.transpose(transpose)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of an opened image after :func:`decode`, which decodes it only if it must.

    Raises:
        UndecodableError: the file is corrupt.
    """
    width, height = image.size
    if width == height:
        return width, height
    with decoding():
        if isinstance(image, PngImageFile) and "exif" not in image.info and _has_exif_chunk(image):
            _load(image)
        return (height, width) if _upright_transpose(image) in SIDEWAYS else (width, height)


def _load(image: Image.Image) -> None:
    """Decode an opened image in place, unless it is decoded.

    Raises:
        UndecodableError: a checksum of its pixels is wrong.
    """
    if getattr(image, "fp", None) is not None and has_wrong_checksum(image):
        raise UndecodableError("is corrupt (a checksum is wrong)")
    image.load()


def has_transparency(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or transparent palette entries or colours (PNG's tRNS)."""
    return image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info


def _scale_transparency(image: PngImageFile) -> None:
    """Bring the transparent value of a PNG (tRNS) to 8 bits like the pixels; Pillow keeps it as it is in the file.

    Raises:
        UnsupportedModeError: 16-bit RGB, of whose pixels Pillow drops the lower bytes, so that several colours may match.
    """
    depth = _png_bit_depth(image)
    if image.mode == "RGB" and depth == 16:
        image.close()
        raise UnsupportedModeError("16-bit RGB with a transparent colour")
    if image.mode == "L" and depth < 8:
        image.info["transparency"] = image.info["transparency"] % 2**depth * (255 // (2**depth - 1))


def _png_bit_depth(image: PngImageFile) -> int:
    file = image.fp
    assert file is not None
    position = file.tell()
    file.seek(24)  # in IHDR, which is the first chunk
    (depth,) = file.read(1)
    file.seek(position)
    return depth


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = Image.fromarray(grey_to_8_bit(image))
        if (key := image.info.get("transparency")) is not None:
            grey.putalpha(Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)))
        return grey
    if has_transparency(image):
        return image.convert("LA" if image.mode == "LA" else "RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _upright_transpose(image: Image.Image) -> Image.Transpose | None:
    """Return the operation that applies the EXIF orientation, or None if there is none. Pillow itself turns TIFF files."""
    if "exif" not in image.info:
        return None
    try:
        return UPRIGHT.get(image.getexif()[ORIENTATION])
    except Exception:  # the EXIF data is missing or corrupt, but the image may be intact
        return None


def _has_exif_chunk(image: PngImageFile) -> bool:
    """Whether a PNG that is not decoded has an eXIf chunk. Pillow finds one behind the pixels only when it decodes them."""
    return any(kind == b"eXIf" for kind, _, _ in png_chunks(image))


@cache
def _formats() -> list[str]:
    """Return the formats that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decoders() -> tuple[str, list[str], list[str]]:
    """Return what determines which images can be decoded: Pillow's version, and the formats and codecs of its build.

    Codecs are listed separately because Pillow registers a format even if it was built without its codec, as AVIF.
    """
    known = {*features.modules, *features.codecs}  # by Pillow's version
    return PIL.__version__, _formats(), [name for name in CODECS if name in known and features.check(name)]


@cache
def _log_first_frame() -> None:
    rank_zero_only(log.warning)("some images are animated or have several pages; only the first frame of each is read")


def abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Join the first names with commas and count the others: ``a, b, c and 7 more``."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def check_on_corrupt(value: str) -> None:
    """Raise an :class:`InputError` unless ``value`` is raise or skip."""
    check_choice("on_corrupt", value, get_args(OnCorrupt))
