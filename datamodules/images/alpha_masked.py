"""Photographs whose background is transparent, made images of one size before black."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from datamodules.images.decoding import (
    OnCorrupt,
    UndecodableError,
    check_on_corrupt,
    decoding,
    open_image,
    read_encoded,
    say_skipped,
)
from datamodules.images.image_set import SUFFIXES
from renderers import InputError
from utils.progress import Progress

log = logging.getLogger(__name__)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's "L"
NO_MASK, NOTHING, DAMAGED = "without transparency", "wholly transparent", "unreadable"


def read_masked(root: Path, size: int, fill: float, on_corrupt: OnCorrupt = "raise") -> UInt8[np.ndarray, "N S S 4"]:
    """All distinct images below a folder, in the order of their paths, each by :func:`frame`.

    Files that are equal byte by byte count once. Names that begin with a dot are left out.

    Args:
        root: the folder.
        size: S.
        fill: see :func:`frame`.
        on_corrupt: whether images that cannot be read are refused (raise), or left out and counted in the log (skip).

    Raises:
        InputError: no folder, no images in it, or, named and counted, images that cannot be read, that have nothing
            transparent and so no mask, or that are transparent all over.
    """
    check_on_corrupt(on_corrupt)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}" + ("; it is a file" if root.is_file() else ""))
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise InputError(f"{root} holds no images (png); give a folder of photographs with transparent background")
    framed: dict[bytes, np.ndarray] = {}
    refused: dict[str, list[Path]] = {}
    with Progress(len(files), f"reading {root.name}", "file") as bar:
        for file in files:
            try:
                content = read_encoded(file)
                key = hashlib.sha256(content).digest()
                if key not in framed:
                    framed[key] = frame(read_rgba(content), size, fill)
                    if not framed[key][..., 3].any():  # specks far apart, of which no pixel keeps anything
                        raise _UnfitError(NOTHING)
            except _UnfitError as error:
                refused.setdefault(str(error), []).append(file)
            except UndecodableError:
                refused.setdefault(DAMAGED, []).append(file)
            bar.update()
    if on_corrupt == "skip":
        say_skipped(root, [str(file.relative_to(root)) for file in refused.pop(DAMAGED, [])], len(files))
    if refused:
        raise InputError(_complaint(root, len(files), refused))
    if len(framed) < len(files):
        log.info("%s holds %d distinct images in %d files", root, len(framed), len(files))
    return np.stack(list(framed.values()))


class _UnfitError(InputError):
    """An image that is whole and of no use."""


def read_rgba(content: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """One image file with its mask; a palette's transparent entries (PNG's tRNS) too.

    Raises:
        _UnfitError: nothing is transparent, or everything.
        UndecodableError: a damaged file.
    """
    with open_image(content) as image, decoding():
        image.load()
        if image.mode not in ("LA", "RGBA", "PA", "La", "RGBa") and "transparency" not in image.info:
            raise _UnfitError(NO_MASK)
        pixels = np.asarray(image.convert("RGBA"))  # "RGB" would show the colour that stands behind the mask
    if pixels[..., 3].min() == 255:
        raise _UnfitError(NO_MASK)
    if not pixels[..., 3].any():
        raise _UnfitError(NOTHING)
    return pixels


def frame(pixels: UInt8[np.ndarray, "h w 4"], size: int, fill: float) -> UInt8[np.ndarray, "S S 4"]:
    """Crop to the mask, pad to a square, resize; colour comes out multiplied by alpha, which is the image before black.

    Resized by area: an image's pixel is the mean of what it covers, with exact fractions at its edges. Renders are
    smoothed so too, so real edges are as sharp as drawn ones and tell the discriminator nothing; and unlike Lanczos, whose
    weights are negative in places, it draws no seam along the mask.

    Args:
        pixels: RGBA, not multiplied by alpha.
        size: S, height and width of the result.
        fill: the longer side of the masked object, as a share of S.
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
    """Share of each of n source pixels in each of ``size`` pixels that are ``scale`` wide and centred on them."""
    edges = (np.arange(size + 1) - size / 2) * scale + n / 2
    source = np.arange(n)
    overlap = np.minimum(edges[1:, None], source + 1) - np.maximum(edges[:-1, None], source)
    return (overlap.clip(0) / scale).astype(np.float32)


def unify_intensity(
    framed: UInt8[np.ndarray, "N S S 4"], channels: int, mean: float | None = None
) -> UInt8[np.ndarray, "N C S S"]:
    """Add to each image what brings its mean intensity inside the mask to one value for all (supplement B.4).

    The same is added to all colours. Where that leaves [0, 1] it is cut off there, and more is added elsewhere, so that
    the mean holds all the same.

    Args:
        framed: colour multiplied by alpha, and alpha.
        channels: 1 for grey (luminance), 3 for colour.
        mean: the value, in [0, 1]; None for the mean over the images.
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
    """Colour (times alpha) or its luminance, and alpha, in [0, 1]."""
    pixels = framed.astype(np.float32) / 255
    color = pixels[..., :3]
    return (color @ LUMA)[..., None] if channels == 1 else color, pixels[..., 3:]


def _intensity(color: Float[np.ndarray, "S S C"], alpha: Float[np.ndarray, "S S 1"]) -> float:
    """Mean luminance inside the mask."""
    luminance = color @ LUMA if color.shape[-1] == 3 else color
    return float(luminance.sum() / alpha.sum())


def _complaint(root: Path, count: int, refused: dict[str, list[Path]]) -> str:
    def listed(files: list[Path]) -> str:
        more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
        return ", ".join(str(file.relative_to(root)) for file in files[:5]) + more

    kinds = "; ".join(
        f"{len(refused[kind]):,} {kind} ({listed(refused[kind])})"
        for kind in (DAMAGED, NO_MASK, NOTHING)
        if kind in refused
    )
    total = sum(map(len, refused.values()))
    return f"{total:,} of {count:,} images in {root} cannot be used: {kinds}; remove or replace them"
