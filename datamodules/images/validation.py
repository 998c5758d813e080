"""What is wrong with a set of images, all of it at once: nobody should have to start again for each of them."""

from __future__ import annotations

import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from datamodules.images.decoding import OnCorrupt
from datamodules.images.reader import ImageReader
from datamodules.images.sources import CorruptImageError, ImageError, ImageSource
from renderers import InputError
from utils.progress import Progress

MOST = 20_000  # images that are looked at: minutes, where each takes some milliseconds
CURES = {
    "damaged": "--data.on_corrupt=skip leaves out those that are damaged",
    "of another size": "--data.center_crop=true takes the middle of images of any size",
    "smaller than": "--data.image_size=N trains on smaller ones",
    "partly transparent": "chanterelle.yaml is for photographs with a transparent background",
}


class _Tolerant(ImageReader):
    """Takes its size from the first image that can be used, and none where there is no such image."""

    def __init__(self, source: ImageSource, image_size: int, center_crop: bool) -> None:
        super().__init__(source, image_size, center_crop)
        if self.useless:
            self.size = source.size

    def _first(self, on_corrupt: OnCorrupt) -> tuple[int, tuple[int, int]]:
        self.useless = True
        for index in range(len(self)):
            try:
                size = self._decode(index).size
            except ImageError:
                continue
            if min(size) >= self.image_size:
                self.useless = False
                return index, size
        return 0, (self.image_size, self.image_size)


def complaint(
    source: ImageSource, image_size: int, center_crop: bool, on_corrupt: OnCorrupt, first: ImageError
) -> InputError:
    """One sentence about all images that cannot be used, counted and named by kinds.

    Args:
        source: the images, of which the first ``MOST`` are decoded.
        image_size: S, as :class:`ImageReader` takes it.
        center_crop: likewise.
        on_corrupt: whether images that are damaged count (raise), or are left out as they are in training (skip).
        first: what was found already; it says it better if it is all.
    """
    try:
        reader = _Tolerant(source, image_size, center_crop)
    except InputError as error:  # not square
        return error
    count = min(len(reader), MOST)

    def kind(number: int) -> str | None:
        try:
            reader.check(number)
        except ImageError as error:
            return None if on_corrupt == "skip" and isinstance(error, CorruptImageError) else error.kind
        return None

    refused: dict[str, list[str]] = defaultdict(list)
    # Decoders let go of Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress(count, "checking images", "image") as bar:
        for number, found in enumerate(threads.map(kind, range(count))):
            if found:
                refused[found].append(source.name(number))
            bar.update()
    total = sum(map(len, refused.values()))
    if total < 2:
        return first
    kinds = "; ".join(f"{len(names):,} {found} ({_some(names)})" for found, names in refused.items())
    cures = [cure for start, cure in CURES.items() if any(found.startswith(start) for found in refused)]
    of = f"{count:,}" if count == len(reader) else f"the first {count:,}"
    end = "; ".join(["remove or replace them", *cures])
    return InputError(f"{total:,} of {of} images in {source.root} cannot be used: {kinds}; {end}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
