"""Photographs with a transparent background as images of one size over black."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from datamodules.images.decoding import (
    OnCorrupt,
    UndecodableError,
    UnsupportedModeError,
    abbreviate,
    check_on_corrupt,
    decode,
    open_image,
)
from datamodules.images.listing import COPIES, log_images
from datamodules.images.sources import CorruptImageError, open_files
from utils.errors import InputError, check_choice
from utils.progress import Progress

Framing = Literal["robust", "exact"]
MIN_ALPHA = 26  # of 255, a tenth: pixels below it do not count for the frame
MIN_PIECE = 0.02  # of the area of the largest connected piece: smaller pieces do not count for the frame
NOTICEABLE = 0.02  # of the object's longer side: framings that differ by more are reported

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's "L"
UNREADABLE, MODE, OPAQUE = "unreadable", "not 8-bit RGB or grey", "without transparency"
TRANSPARENT, FAINT = "fully transparent", "almost fully transparent (no pixel is a tenth opaque)"


def read_masked(
    root: Path, size: int, fill: float, on_corrupt: OnCorrupt = "raise", framing: Framing = "robust"
) -> UInt8[np.ndarray, "N S S 4"]:
    """Read all distinct images below a folder or in a ZIP file, sorted by path, and :func:`frame` each.

    Byte-identical files count once. One line is logged: how many images are read, which are left out and why, and how many
    are framed without the specks around the object.

    Args:
        root: path of the images.
        size: image size S.
        fill: see :func:`frame`.
        on_corrupt: whether unreadable images are an error (raise), or are skipped and logged (skip).
        framing: see :func:`frame`.

    Raises:
        InputError: the folder does not exist or has no images, or images are unreadable, have no transparency and so no
            mask, or are fully transparent. The message counts and names the images.
    """
    check_on_corrupt(on_corrupt)
    check_choice("framing", framing, get_args(Framing))
    source = open_files(root, fix="set root to")
    framed: dict[bytes, np.ndarray] = {}
    refused: dict[str, list[str]] = {}
    cropped: list[str] = []
    copies: list[str] = []
    with Progress(len(source), f"reading {root.name}", "file") as bar:
        for index in range(len(source)):
            name = source.name(index)
            try:
                content = source.read(index)
                key = hashlib.sha256(content).digest()
                if key in framed:
                    copies.append(name)
                else:
                    pixels = read_rgba(content)
                    image = frame(pixels, size, fill, framing)
                    if not image[..., 3].any():  # isolated specks that vanish in the averaging
                        raise _UnsuitableError(TRANSPARENT)
                    framed[key] = image
                    if framing == "robust" and _cuts(pixels[..., 3]):
                        cropped.append(name)
            except _UnsuitableError as error:
                refused.setdefault(str(error), []).append(name)
            except UnsupportedModeError:
                refused.setdefault(MODE, []).append(name)
            except (UndecodableError, CorruptImageError):
                refused.setdefault(UNREADABLE, []).append(name)
            bar.update()
    unreadable = refused.pop(UNREADABLE, []) if on_corrupt == "skip" else []
    if refused:
        kinds = "; ".join(
            f"{len(refused[kind]):,} {kind} ({abbreviate(refused[kind])})"
            for kind in (UNREADABLE, MODE, OPAQUE, TRANSPARENT, FAINT)
            if kind in refused
        )
        total = sum(map(len, refused.values()))
        raise InputError(f"{total:,} of {len(source):,} images in {root} are unusable: {kinds}; remove or replace them")
    more = ""
    if cropped:
        more = f"{len(cropped):,} framed without specks around the object ({abbreviate(cropped, 3)}); "
        more += "--data.framing=exact frames every pixel that is not fully transparent"
    left_out = dict(source.left_out) | ({COPIES: copies} if copies else {})
    log_images(root, len(source), left_out, unreadable, more)
    return np.stack(list(framed.values()))


class _UnsuitableError(InputError):
    """An intact image without a usable mask."""


def read_rgba(content: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """Decode an image with its mask, including a palette's transparent entries (PNG's tRNS), upright.

    Raises:
        _UnsuitableError: no pixel is transparent, or all are.
        UndecodableError: the file is corrupt.
    """
    with open_image(content) as image:
        decoded = decode(image)
    if "A" not in decoded.getbands():
        raise _UnsuitableError(OPAQUE)
    pixels = np.asarray(decoded.convert("RGBA"))
    if pixels[..., 3].min() == 255:
        raise _UnsuitableError(OPAQUE)
    if not pixels[..., 3].any():
        raise _UnsuitableError(TRANSPARENT)
    return pixels


def frame(
    pixels: UInt8[np.ndarray, "h w 4"], size: int, fill: float, framing: Framing = "robust"
) -> UInt8[np.ndarray, "S S 4"]:
    """Crop to the mask, pad to a square and resize. The result's colour is premultiplied, which is the image over black.

    Resizing averages over areas: each pixel is the exact mean of the area that it covers. Renders are antialiased in the
    same way, so the discriminator cannot tell real edges from rendered ones by their sharpness. Unlike Lanczos, which has
    negative weights, this leaves no seam along the mask.

    Args:
        pixels: RGBA, not premultiplied.
        size: height and width S of the result.
        fill: longer side of the masked object as a fraction of S.
        framing: ``robust`` crops to the pixels of at least a tenth opacity, without connected pieces that are smaller than
            2 % of the largest, because background removers leave faint pixels and specks; ``exact`` crops to all pixels
            that are not fully transparent.

    Raises:
        _UnsuitableError: ``robust``, and no pixel has a tenth opacity.
    """
    alpha = pixels[..., 3]
    top, bottom, left, right = _bounds(object_mask(alpha) if framing == "robust" else alpha > 0)
    cropped = pixels[top:bottom, left:right].astype(np.float32)
    cropped[..., :3] *= cropped[..., 3:] / 255
    height, width = cropped.shape[:2]
    scale = max(height, width) / (fill * size)
    down, across = area_weights(height, size, scale), area_weights(width, size, scale)
    framed = np.tensordot(across, np.tensordot(down, cropped, (1, 0)), (1, 1)).swapaxes(0, 1)
    return framed.round().clip(0, 255).astype(np.uint8)


def object_mask(alpha: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of at least a tenth opacity, without connected pieces smaller than 2 % of the largest.

    Pixels that touch at a corner are connected.

    Raises:
        _UnsuitableError: there are none.
    """
    labels, count = ndimage.label(alpha >= MIN_ALPHA, np.ones((3, 3)))
    if not count:
        raise _UnsuitableError(FAINT)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return (areas >= MIN_PIECE * areas.max())[labels] & (labels > 0)


def _bounds(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Return the first row, the row after the last, and likewise the columns of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _cuts(alpha: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether the robust frame is noticeably smaller than the exact one."""
    robust, exact = np.array(_bounds(object_mask(alpha))), np.array(_bounds(alpha > 0))
    longer = max(robust[1] - robust[0], robust[3] - robust[2])
    return bool(np.abs(robust - exact).max() > max(1, NOTICEABLE * longer))


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
