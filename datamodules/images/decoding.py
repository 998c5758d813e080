"""Image files that may hold anything: read as PNG or JPEG of a bounded size, or refused."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renderers import InputError

OnCorrupt = Literal["raise", "skip"]
FORMATS = ("PNG", "JPEG")  # of Pillow's many readers, some of which start other programs
MAX_BYTES = 2**28  # of one encoded image
MAX_PIXELS = 2**26  # of one decoded image

log = logging.getLogger(__name__)


class UndecodableError(Exception):
    """A file that is no image that can be used; its text says why, as the middle of a sentence."""


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever Pillow raises within leaves as an :class:`UndecodableError`; our own refusals stay what they are."""
    try:
        yield
    except (UndecodableError, InputError):
        raise
    except Exception as error:  # a decoder raises whatever a damaged file leads it to, struct.error and MemoryError too
        reason = getattr(error, "strerror", None)
        raise UndecodableError(f"cannot be read ({reason})" if reason else "is no PNG or JPEG, or damaged") from error


def read_encoded(path: Path) -> bytes:
    """The content of an image's file.

    Raises:
        UndecodableError: it cannot be read, or is larger than any image.
    """
    with decoding():
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UndecodableError(f"has {size / 2**20:,.0f} MiB where an image may have {MAX_BYTES / 2**20:.0f}")
        return path.read_bytes()


def open_image(file: bytes | Path) -> Image.Image:
    """An image whose header alone has been read; ``load`` it within :func:`decoding`.

    Raises:
        UndecodableError: no PNG or JPEG, or more pixels than fit.
    """
    with decoding():
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise UndecodableError(
                f"declares {image.width}×{image.height} pixels where {MAX_PIXELS / 2**20:.0f} Mi are allowed"
            )
        return image


def check_on_corrupt(value: str) -> None:
    """Raises an :class:`InputError` unless ``value`` is raise or skip."""
    if value not in get_args(OnCorrupt):
        raise InputError(f"on_corrupt must be raise or skip, got {value!r}")


def say_skipped(root: Path, names: Sequence[str], total: int) -> None:
    """Log, on the first rank, how many images are left out since they cannot be read, and the first of them.

    Raises:
        InputError: none is left.
    """
    if not names:
        return
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    if len(names) == total:
        raise InputError(f"none of {total:,} images in {root} can be read: {listed}; replace them")
    if rank_zero_only.rank == 0:
        log.warning("%s of %s images in %s cannot be read and are left out: %s", len(names), total, root, listed)
