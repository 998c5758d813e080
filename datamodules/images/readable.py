"""Which images of a large set can be read, found out once by decoding all of them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int

from datamodules.images.decoding import say_skipped
from datamodules.images.reader import ImageReader
from datamodules.images.sources import CorruptImageError
from utils.files import cache_key, cache_root, write_atomically
from utils.progress import Progress


def readable_numbers(reader: ImageReader, cache_dir: str | None) -> Int[np.ndarray, " N"]:
    """The numbers of the images that can be read, in order; how many cannot is said in the log.

    All are decoded the first time, by one thread a core; what was found is kept under the set's cache_key.

    Raises:
        InputError: none can be read.
        ImageError: an image that can be read and is not to be used: of another size, or partly transparent.
    """
    source = reader.source
    key = cache_key("unreadable", 1, source.cache_key(), reader.size)
    path = cache_root(cache_dir) / "images" / f"unreadable-{key}.json"
    unreadable = _kept(path, len(reader))
    if unreadable is None:
        unreadable = _find(reader)
        write_atomically(path, lambda file: file.write_text(json.dumps(unreadable)) and None)
    say_skipped(source.root, [source.name(i) for i in unreadable], len(reader))
    return np.setdiff1d(np.arange(len(reader)), np.array(unreadable, int))


def _find(reader: ImageReader) -> list[int]:
    def unreadable(number: int) -> bool:
        try:
            reader.check(number)
        except CorruptImageError:
            return True
        return False

    found = []
    # Decoders let go of Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads, Progress(len(reader), "checking images", "image") as bar:
        for number, bad in enumerate(threads.map(unreadable, range(len(reader)))):
            if bad:
                found.append(number)
            bar.update()
    return found


def _kept(path: Path, count: int) -> list[int] | None:
    """What an earlier start found; None where nothing is kept that can be believed."""
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < count for n in numbers)
    return numbers if whole else None
