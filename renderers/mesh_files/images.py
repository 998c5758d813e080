"""Textures of mesh files."""

from __future__ import annotations

import errno
import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from renderers.mesh_files.parts import Notes
from utils.pillow import grey_to_8_bit, has_16_bit_planes, has_wrong_checksum

# Pillow's readers of other formats, such as EPS, may start programs, whatever the name of the file is.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA", "DDS", "PCX")
# The name is too long for any file, or an absolute path leads into another user's folder.
_MISSING = (errno.ENAMETOOLONG, errno.EACCES)
EMISSION = "emission is not supported, so its surfaces do not glow"
OPAQUE = "transparency is not supported, so its surfaces are opaque"


def decode_texture(name: str, content: bytes, notes: Notes, cutoff: float = 1.0) -> UInt8[np.ndarray, "H W 3"] | None:
    """Return the RGB pixels of an image, or None if it cannot be decoded.

    Args:
        name: the image's name for notes.
        content: the image.
        notes: receives a note if the image cannot be decoded, or if it is transparent.
        cutoff: alpha in [0, 1] below which a pixel is transparent.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                if has_wrong_checksum(image) or has_16_bit_planes(image):
                    raise ValueError("Pillow would decode other pixels")
                if image.mode.startswith("I;16"):  # Pillow's conversion would clip the values at 255
                    return np.repeat(grey_to_8_bit(image)[..., None], 3, -1)
                if image.mode in ("I", "F"):
                    notes.add(f"the texture {name} has 32-bit pixels, so its surfaces have no texture")
                    return None
                pixels = np.asarray(image.convert("RGBA"))
    except Exception as error:  # decoders raise arbitrary exceptions for corrupt files
        notes.add(f"the texture {name} cannot be decoded ({type(error).__name__}), so its surfaces have no texture")
        return None
    if (pixels[..., 3] < 255 * cutoff).any():
        notes.add(OPAQUE)
    return pixels[..., :3]


@cache
def _formats() -> list[str]:
    """Return those of :data:`FORMATS` that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_file(path: Path) -> bytes:
    """Return the content of a file. An :class:`OSError` names the file, also one that is raised after opening it."""
    try:
        return path.read_bytes()
    except OSError as error:
        error.filename = str(path)
        raise


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file that another one names: separated by slashes or backslashes, in any case, or moved to ``folder``."""
    words = [word for word in name.strip().strip('"').replace("\\", "/").split("/") if word]
    if not words:
        return None
    start = Path("/") if name.strip().startswith("/") else folder
    return descend(start, words) or descend(folder, words[-1:])


def descend(folder: Path, words: list[str]) -> Path | None:
    """Follow names from a folder to a file; a name that does not exist stands for the only one that differs in case."""
    path = folder
    try:
        for word in words:
            following = path / word
            if not following.exists() and path.is_dir():
                same = [entry for entry in path.iterdir() if entry.name.lower() == word.lower()]
                following = same[0] if len(same) == 1 else following
            path = following
        return path if path.is_file() else None
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise


def to_srgb(linear: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Encode linear intensities in [0, 1] as sRGB."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Decode sRGB values in [0, 1] to linear intensities."""
    srgb = np.clip(srgb, 0, 1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def multiply_linear(pixels: UInt8[np.ndarray, "H W 3"], factor: Float[np.ndarray, " 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Multiply the linear intensities of sRGB pixels by a factor per channel."""
    levels = to_linear(np.arange(256) / 255)
    tables = (to_srgb(levels[:, None] * factor) * 255).round().astype(np.uint8)
    return np.stack([tables[pixels[..., i], i] for i in range(3)], -1)
