"""Photographs with a transparent background as images of one size over black."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

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
    read_encoded,
)
from utils.errors import InputError
from utils.progress import Progress

log = logging.getLogger(__name__)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's "L"
UNREADABLE, OPAQUE, TRANSPARENT = "unreadable", "without transparency", "fully transparent"


def read_masked(root: Path, size: int, fill: float, on_corrupt: OnCorrupt = "raise") -> UInt8[np.ndarray, "N S S 4"]:
    """Read all distinct images below a folder, sorted by path, and :func:`frame` each.

    Byte-identical files count once. Hidden files are ignored.

    Args:
        root: folder of the images.
        size: image size S.
        fill: see :func:`frame`.
        on_corrupt: whether unreadable images are an error (raise), or are skipped and logged (skip).

    Raises:
        InputError: the folder does not exist or has no images, or images are unreadable, have no transparency and so no
            mask, or are fully transparent. The message counts and names the images.
    """
    check_on_corrupt(on_corrupt)
    files = list_images(root)
    if not files:
        raise InputError(f"{root} has no PNG images; choose a folder of photographs with a transparent background")
    framed: dict[bytes, np.ndarray] = {}
    refused: dict[str, list[Path]] = {}
    with Progress(len(files), f"reading {root.name}", "file") as bar:
        for file in files:
            try:
                content = read_encoded(file)
                key = hashlib.sha256(content).digest()
                if key not in framed:
                    framed[key] = frame(read_rgba(content), size, fill)
                    if not framed[key][..., 3].any():  # isolated specks that vanish in the averaging
                        raise _UnsuitableError(TRANSPARENT)
            except _UnsuitableError as error:
                refused.setdefault(str(error), []).append(file)
            except UndecodableError:
                refused.setdefault(UNREADABLE, []).append(file)
            bar.update()
    if on_corrupt == "skip":
        log_skipped(root, _relative(root, refused.pop(UNREADABLE, [])), len(files))
    if refused:
        kinds = "; ".join(
            f"{len(refused[kind]):,} {kind} ({abbreviate(_relative(root, refused[kind]))})"
            for kind in (UNREADABLE, OPAQUE, TRANSPARENT)
            if kind in refused
        )
        total = sum(map(len, refused.values()))
        raise InputError(f"{total:,} of {len(files):,} images in {root} are unusable: {kinds}; remove or replace them")
    if len(framed) < len(files):
        log.info("%s has %d distinct images in %d files", root, len(framed), len(files))
    return np.stack(list(framed.values()))


class _UnsuitableError(InputError):
    """An intact image without a usable mask."""


def read_rgba(content: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """Decode an image with its mask, including a palette's transparent entries (PNG's tRNS).

    Raises:
        _UnsuitableError: no pixel is transparent, or all are.
        UndecodableError: the file is corrupt.
    """
    with open_image(content) as image, decoding():
        image.load()
        if not has_transparency(image):
            raise _UnsuitableError(OPAQUE)
        pixels = np.asarray(image.convert("RGBA"))  # "RGB" would reveal the colour behind the mask
    if pixels[..., 3].min() == 255:
        raise _UnsuitableError(OPAQUE)
    if not pixels[..., 3].any():
        raise _UnsuitableError(TRANSPARENT)
    return pixels


def frame(pixels: UInt8[np.ndarray, "h w 4"], size: int, fill: float) -> UInt8[np.ndarray, "S S 4"]:
    """Crop to the mask, pad to a square and resize. The result's colour is premultiplied, which is the image over black.

    Resizing averages over areas: each pixel is the exact mean of the area that it covers. Renders are antialiased in the
    same way, so the discriminator cannot tell real edges from rendered ones by their sharpness. Unlike Lanczos, which has
    negative weights, this leaves no seam along the mask.

    Args:
        pixels: RGBA, not premultiplied.
        size: height and width S of the result.
        fill: longer side of the masked object as a fraction of S.
    """
    rows, columns = (np.flatnonzero(pixels[..., 3].any(axis)) for axis in (1, 0))
    cropped = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    cropped[..., :3] *= cropped[..., 3:] / 255
    height, width = cropped.shape[:2]
    scale = max(height, width) / (fill * size)
    down, across = area_weights(height, size, scale), area_weights(width, size, scale)
    framed = np.tensordot(across, np.tensordot(down, cropped, (1, 0)), (1, 1)).swapaxes(0, 1)
    return framed.round().clip(0, 255).astype(np.uint8)


def area_weights(n: int, size: int, scale: float) -> Float[np.ndarray, "size n"]:
    """Return the fraction that each of n source pixels covers of each of ``size`` centred pixels of width ``scale``."""
    edges = (np.arange(size + 1) - size / 2) * scale + n / 2
    source = np.arange(n)
    overlap = np.minimum(edges[1:, None], source + 1) - np.maximum(edges[:-1, None], source)
    return (overlap.clip(0) / scale).astype(np.float32)


def unify_intensity(
    framed: UInt8[np.ndarray, "N S S 4"], channels: int, mean: float | None = None
) -> UInt8[np.ndarray, "N C S S"]:
    """Add a constant to each image so that its mean intensity inside the mask equals ``mean`` (supplement B.4).

    The same constant is added to all colours. Values that leave [0, 1] are clipped, and the constant is increased until the
    mean is reached.

    Args:
        framed: premultiplied colour, and alpha.
        channels: 1 for grey (luminance), 3 for colour.
        mean: target in [0, 1]; None for the mean over all images.
    """
    if mean is None:
        mean = float(np.mean([_intensity(*_split(one, channels)) for one in framed]))
    unified = []
    for one in framed:
        color, alpha = _split(one, channels)
        shift, result = 0.0, color
        for _ in range(50):
            gap = mean - _intensity(result, alpha)
            if abs(gap) < 1e-4:
                break
            shift += gap
            result = (color + shift * alpha).clip(0, alpha)
        unified.append((result * 255).round().astype(np.uint8))
    return np.ascontiguousarray(np.stack(unified).transpose(0, 3, 1, 2))


def _split(
    framed: UInt8[np.ndarray, "S S 4"], channels: int
) -> tuple[Float[np.ndarray, "S S C"], Float[np.ndarray, "S S 1"]]:
    """Return premultiplied colour or its luminance, and alpha, in [0, 1]."""
    pixels = framed.astype(np.float32) / 255
    color = pixels[..., :3]
    return (color @ LUMA)[..., None] if channels == 1 else color, pixels[..., 3:]


def _intensity(color: Float[np.ndarray, "S S C"], alpha: Float[np.ndarray, "S S 1"]) -> float:
    """Return the mean luminance inside the mask."""
    luminance = color @ LUMA if color.shape[-1] == 3 else color
    return float(luminance.sum() / alpha.sum())


def _relative(root: Path, files: list[Path]) -> list[str]:
    return [str(file.relative_to(root)) for file in files]
