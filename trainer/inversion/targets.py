"""The images to invert: files with their silhouettes and known viewpoints, or renders of held-out shapes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from datamodules.images.alpha_masked import LUMA, MIN_ALPHA, area_weights, frame
from datamodules.images.decoding import (
    SUFFIXES,
    OnCorrupt,
    UndecodableError,
    abbreviate,
    check_on_corrupt,
    decode,
    open_image,
)
from datamodules.images.listing import Listing, has_suffix, log_images
from datamodules.images.sources import CorruptImageError, FolderSource, NamedSource, open_files
from trainer.inversion.optimization import Targets
from utils.errors import InputError
from utils.files import cache_key

PLAIN = 3  # of 255: a border whose pixels differ by less is a plain background
FOREGROUND = 8  # of 255: pixels that differ more from a plain background are the object


@dataclass(frozen=True)
class Item:
    """One image to invert.

    Args:
        name: unique among the images; outputs are named after it.
        image: ``(C, S, S)`` in [0, 1], over black where a silhouette is known.
        alpha: ``(1, S, S)`` in [0, 1], the silhouette; None if it is not known.
        view: azimuth and elevation in degrees, or None if the viewpoint is not known.
    """

    name: str
    image: Tensor
    alpha: Tensor | None
    view: tuple[float, float] | None = None

    @property
    def stem(self) -> str:
        """The name of the image's outputs: its own without suffix, with folders and dots joined by underscores."""
        return str(PurePosixPath(self.name).with_suffix("")).replace("/", "_").replace(".", "_")

    def key(self) -> str:
        """Hash everything that the inversion depends on."""
        alpha = None if self.alpha is None else self.alpha.numpy().tobytes()
        return cache_key(self.image.numpy().tobytes(), alpha, self.view)


def stack(items: list[Item]) -> Targets:
    """Return images as one batch."""
    alphas = [torch.zeros_like(item.image[:1]) if item.alpha is None else item.alpha for item in items]
    masked = torch.tensor([float(item.alpha is not None) for item in items])
    return Targets(torch.stack([item.image for item in items]), torch.stack(alphas), masked)


def read_items(
    path: Path,
    size: int,
    channels: int,
    *,
    masks: Path | None = None,
    views: Path | None = None,
    fill: float | None = None,
    on_corrupt: OnCorrupt = "raise",
) -> list[Item]:
    """Read an image file, or all images of a folder or ZIP file, and box-average them to ``size``.

    The silhouette of an image is, in this order: its mask; its alpha channel; everything that differs from a plain
    background, which is a border of one colour, such as white. Otherwise it is not known. The background becomes black.

    Args:
        path: file or folder.
        size: S.
        channels: 1 for grey (luminance) or 3.
        masks: folder with a mask of each image, of the same name up to its suffix and of the same size; white is the object.
        views: CSV file with the columns name, azimuth and elevation, in degrees.
        fill: move and scale the object so that its longer side is this fraction of the image; requires a silhouette.
        on_corrupt: whether unusable images are an error (raise), or are skipped and logged (skip).

    Raises:
        InputError: there are no images, images or masks are unusable (the message names them), or the CSV is invalid.
    """
    check_on_corrupt(on_corrupt)
    source = _open(path)
    mask_source = None if masks is None else _open(masks)
    known = {} if views is None else read_views(views, source.names)
    items: list[Item] = []
    refused: dict[str, str] = {}
    for index, name in enumerate(source.names):
        try:
            pixels = _read_rgba(source, index)
            opaque = mask_source is None and pixels[..., 3].min() == 255
            silhouette: Bool[np.ndarray, "h w"] | None = None
            if mask_source is not None:
                pixels[..., 3] = _read_mask(mask_source, name, pixels.shape[:2])
            elif opaque and (silhouette := plain_foreground(pixels[..., :3])) is not None:
                pixels[..., 3] = 255 * silhouette
            masked = not opaque or silhouette is not None
            if silhouette is not None and not silhouette.any():
                raise _UnusableError("has one colour only, so it shows no object")
            if masked and (peak := pixels[..., 3].max()) < MIN_ALPHA:
                raise _UnusableError(f"has an empty silhouette: it is at most {peak}, and must be 255 on the object")
            items.append(_item(name, pixels, masked, size, channels, fill, known.get(name)))
        except (_UnusableError, UndecodableError) as error:
            refused[name] = str(error)
        except CorruptImageError:
            refused[name] = "cannot be read"
    if refused and on_corrupt == "raise":
        listed = abbreviate([f"{name} {reason}" for name, reason in refused.items()])
        raise InputError(
            f"{len(refused):,} of {len(source):,} images in {path} are unusable: {listed}; replace them, or skip them with "
            "--on_corrupt skip"
        )
    log_images(path, len(source), source.left_out, [f"{name} {reason}" for name, reason in refused.items()])
    return items


class _UnusableError(Exception):
    """An intact image that cannot be inverted. Its message is a predicate."""


def _open(path: Path) -> NamedSource:
    if path.is_file() and has_suffix(path.name, SUFFIXES):
        return FolderSource(path.parent, Listing([path.name], {}))
    return open_files(path)


def _read_rgba(source: NamedSource, index: int) -> UInt8[np.ndarray, "h w 4"]:
    with open_image(source.read(index)) as image:
        return np.array(decode(image).convert("RGBA"))


def _read_mask(source: NamedSource, name: str, size: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    """Return the mask of an image: the alpha channel of the file of its name, or its luminance if it is opaque."""
    stem = PurePosixPath(name).with_suffix("")
    found = [i for i, other in enumerate(source.names) if PurePosixPath(other).with_suffix("") == stem]
    if not found:
        raise _UnusableError(f"has no mask in {source.root}")
    if len(found) > 1:
        raise _UnusableError(f"has several masks ({abbreviate([source.names[i] for i in found])})")
    with open_image(source.read(found[0])) as image:
        decoded = decode(image)
    mask = np.asarray(decoded.convert("RGBA").getchannel("A"))
    if mask.min() == 255:  # many programs save black and white with an alpha channel that says nothing
        mask = np.asarray(decoded.convert("RGB").convert("L"))
    if mask.shape != size:
        raise _UnusableError(f"is {size[1]}×{size[0]} and its mask {mask.shape[1]}×{mask.shape[0]}")
    return mask


def plain_foreground(pixels: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"] | None:
    """Return where an image differs from its background, or None unless its border is of one colour."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int16)
    color = np.median(border, axis=0)
    if np.abs(border - color).max() >= PLAIN:
        return None
    return np.abs(pixels - color).max(2) > FOREGROUND


def _item(
    name: str,
    pixels: UInt8[np.ndarray, "h w 4"],
    masked: bool,
    size: int,
    channels: int,
    fill: float | None,
    view: tuple[float, float] | None,
) -> Item:
    height, width = pixels.shape[:2]
    if fill is not None:
        if not masked:
            raise _UnusableError("has no silhouette, which --fill requires")
        resized = frame(pixels, size, fill)
    elif height != width:
        raise _UnusableError(f"is {width}×{height}, not square" + (" (pass --fill 0.5)" if masked else ""))
    else:
        premultiplied = pixels.astype(np.float32)
        premultiplied[..., :3] *= premultiplied[..., 3:] / 255
        weights = area_weights(height, size, height / size)
        resized = np.tensordot(weights, np.tensordot(weights, premultiplied, (1, 0)), (1, 1)).swapaxes(0, 1)
        resized = resized.round().clip(0, 255).astype(np.uint8)
    values = resized.astype(np.float32) / 255
    color = values[..., :3] if channels == 3 else (values[..., :3] @ LUMA)[..., None]
    image, alpha = (torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))) for x in (color, values[..., 3:]))
    return Item(name, image, alpha if masked else None, view)


def read_views(path: Path, names: list[str]) -> dict[str, tuple[float, float]]:
    """Read known viewpoints in degrees by name.

    Raises:
        InputError: the file does not exist, lacks a column or a viewpoint of an image, or has invalid numbers.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--views {path} cannot be read as CSV; pass a file with name,azimuth,elevation") from error
    views: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows, 2):
        try:
            azimuth, elevation = float(row["azimuth"]), float(row["elevation"])
            if not (np.isfinite(azimuth) and -90 <= elevation <= 90):
                raise ValueError
            view = azimuth, elevation
            if views.setdefault(row["name"], view) != view:
                raise InputError(
                    f"--views {path}, line {number}: {row['name']} has another viewpoint before; remove one"
                )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"--views {path}, line {number}: expected name,azimuth,elevation in degrees, with elevations from -90 "
                "to 90"
            ) from error
    if missing := [name for name in names if name not in views]:
        raise InputError(f"--views {path} lacks {len(missing):,} images: {abbreviate(missing)}; add them")
    return views
