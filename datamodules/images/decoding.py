"""Decoding of untrusted image files: PNG or JPEG of bounded size."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from utils.errors import InputError

OnCorrupt = Literal["raise", "skip"]
SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # Pillow has many other readers, some of which start programs
MAX_BYTES = 2**28  # per encoded image
MAX_PIXELS = 2**26  # per decoded image

log = logging.getLogger(__name__)


class UndecodableError(Exception):
    """A file that is not a usable image. Its message is a predicate without a subject, such as "cannot be read"."""


@contextmanager
def decoding() -> Iterator[None]:
    """Turn every exception that Pillow raises into an :class:`UndecodableError`; pass our own errors through."""
    try:
        yield
    except (UndecodableError, InputError):
        raise
    except Exception as error:  # decoders raise anything on a corrupt file, including struct.error and MemoryError
        reason = getattr(error, "strerror", None)
        raise UndecodableError(f"cannot be read ({reason})" if reason else "is corrupt or not a PNG or JPEG") from error


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
    """Read the header of an image; call ``load`` within :func:`decoding` to decode it.

    Raises:
        UndecodableError: the file is not a PNG or JPEG, or has too many pixels.
    """
    with decoding():
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise UndecodableError(
                f"has {image.width}×{image.height} pixels, more than the limit of {MAX_PIXELS / 2**20:.0f} Mi"
            )
        return image


def has_transparency(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or transparent palette entries or colours (PNG's tRNS)."""
    return image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info


def list_images(folder: Path) -> list[Path]:
    """Find the PNG and JPEG files below a folder, sorted by path, without hidden ones.

    Raises:
        InputError: the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder" if folder.is_file() else f"no such folder: {folder}")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Join the first names with commas and count the others: ``a, b, c and 7 more``."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def check_on_corrupt(value: str) -> None:
    """Raise an :class:`InputError` unless ``value`` is raise or skip."""
    if value not in get_args(OnCorrupt):
        raise InputError(f"on_corrupt must be raise or skip, got {value!r}")


def log_skipped(root: Path, names: Sequence[str], total: int) -> None:
    """Log on rank 0 which unreadable images are skipped.

    Raises:
        InputError: all images are unreadable.
    """
    if not names:
        return
    if len(names) == total:
        raise InputError(f"none of {total:,} images in {root} can be read: {abbreviate(names)}; replace them")
    rank_zero_only(log.warning)(
        "skipping %s of %s images in %s that cannot be read: %s", len(names), total, root, abbreviate(names)
    )
