"""Checks of whole image sets: which images can be read, and one message about all that cannot be used."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int

from datamodules.images.decoding import OnCorrupt, abbreviate, decoders
from datamodules.images.listing import log_images
from datamodules.images.reader import ImageReader
from datamodules.images.sources import CorruptImageError, ImageError, ImageSource
from utils.errors import InputError, is_temporary
from utils.files import cache_key, cache_root, write_atomically
from utils.progress import Progress

MAX_CHECKED = 20_000  # images that a summary covers: minutes, at a few milliseconds per image
FIXES = {  # by the start of an error's kind
    "corrupt": "--data.on_corrupt=skip leaves out corrupt images",
    "of another size": "--data.center_crop=true uses the central squares of images of any size",
    "smaller than": "--data.image_size=N trains on smaller images",
    "partly transparent": "chanterelle.yaml is for photographs with a transparent background",
}


def readable_indices(reader: ImageReader, cache_dir: str | None) -> Int[np.ndarray, " N"]:
    """Return the indices of the readable images, in order, and log how many are read and left out.

    The first call decodes all images, with one thread per core. The result is cached on disk under the cache key of the
    source, unless an image may be readable later, such as one without read permission.

    Raises:
        InputError: no image can be read.
        ImageError: an image can be read but not used, because of its size or its transparency.
    """
    source = reader.source
    key = cache_key("unreadable", 4, source.cache_key(), reader.size, decoders())
    path = cache_root(cache_dir) / "pictures" / f"unreadable-{key}.json"
    unreadable = _read_cached(path, len(reader))
    if unreadable is None:
        failed = _decode_all(reader, len(reader), CorruptImageError)
        unreadable = [index for index, _ in failed]
        if not any(is_temporary(error) for _, error in failed):
            content = json.dumps(unreadable)
            write_atomically(path, lambda file: file.write_text(content, encoding="utf-8"))
    log_images(source.root, len(reader), source.left_out, [source.name(i) for i in unreadable])
    return np.setdiff1d(np.arange(len(reader)), np.array(unreadable, int))


def summarize_errors(
    source: ImageSource, image_size: int, center_crop: bool, on_corrupt: OnCorrupt, first: ImageError
) -> InputError:
    """Return one error about all unusable images, counted and named by kind, so that all can be fixed at once.

    Args:
        source: the images; the first ``MAX_CHECKED`` are decoded.
        image_size: see :class:`ImageReader`.
        center_crop: see :class:`ImageReader`.
        on_corrupt: whether corrupt images are unusable (raise), or are left out of training and so not reported (skip).
        first: the error that was already raised; returned if there are no others.
    """
    try:
        reader = _TolerantReader(source, image_size, center_crop)
    except InputError as not_square:
        return not_square
    count = min(len(reader), MAX_CHECKED)
    refused: dict[str, list[str]] = defaultdict(list)
    for index, error in _decode_all(reader, count, ImageError):
        if not (on_corrupt == "skip" and isinstance(error, CorruptImageError)):
            refused[error.kind].append(source.name(index))
    total = sum(map(len, refused.values()))
    if total < 2:
        return first
    kinds = "; ".join(f"{len(names):,} {kind} ({abbreviate(names)})" for kind, names in refused.items())
    fixes = [fix for start, fix in FIXES.items() if any(kind.startswith(start) for kind in refused)]
    checked = f"{count:,}" if count == len(reader) else f"the first {count:,}"
    return InputError(
        f"{total:,} of {checked} images in {source.root} are unusable: {kinds}; "
        + "; ".join(["remove or replace them", *fixes])
    )


def _decode_all(reader: ImageReader, count: int, expected: type[ImageError]) -> list[tuple[int, ImageError]]:
    """Decode the first ``count`` images and return the indices and errors of those that raise ``expected``."""

    def check(index: int) -> ImageError | None:
        try:
            reader.check(index)
        except expected as error:
            return error
        return None

    failed = []
    # Threads run in parallel because decoders release the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress(count, "checking images", "image") as bar:
        for index, error in enumerate(threads.map(check, range(count))):
            if error is not None:
                failed.append((index, error))
            bar.update()
    return failed


def _read_cached(path: Path, count: int) -> list[int] | None:
    """Return the cached indices of unreadable images, or None if there are none or they are invalid."""
    try:
        indices = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    valid = isinstance(indices, list) and all(type(n) is int and 0 <= n < count for n in indices)
    return indices if valid else None


class _TolerantReader(ImageReader):
    """A reader that takes its size from the first usable image, and accepts sets without one."""

    def __init__(self, source: ImageSource, image_size: int, center_crop: bool) -> None:
        super().__init__(source, image_size, center_crop)
        if not self.usable:
            self.size = source.size

    def _find_first(self, on_corrupt: OnCorrupt) -> tuple[int, tuple[int, int]]:
        self.usable = True
        for index in range(len(self)):
            try:
                size = self._decode(index).size
            except ImageError:
                continue
            if min(size) >= self.image_size:
                return index, size
        self.usable = False
        return 0, (self.image_size, self.image_size)
