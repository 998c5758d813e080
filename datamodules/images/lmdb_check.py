"""Whether an LMDB is whole, found out before it is read: the library trusts its files, and damage kills the process."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from renderers import InputError

MAGIC, VERSION = 0xBEEFC0DE, 1
SECONDS = 600  # for the keys of a large set on a slow disk
_META = struct.Struct("<16xIIQQI92xQQ")  # a page's head; magic, version, address, map size, page size, trees, last page
_SENTENCE = "download or copy it again"
# All keys, in a process of its own; a value's place is compared with the file's size, its pages are not touched.
_WALK = """
import sys
import lmdb
import numpy as np
path, folder, size = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])
with lmdb.open(path, subdir=folder, readonly=True, lock=False, readahead=False, create=False) as environment:
    entries, starts, ends = environment.stat()["entries"], [], []
    with environment.begin(buffers=True) as transaction:
        for pair in transaction.cursor():
            parts = [np.frombuffer(part, np.uint8) for part in pair if len(part)]
            starts += [part.ctypes.data for part in parts]
            ends += [part.ctypes.data + part.size for part in parts]
            entries -= 1
            if entries < 0:
                sys.exit(3)
            starts, ends = [min(starts, default=0)], [max(ends, default=0)]
    sys.exit(0 if entries == 0 and ends[0] - starts[0] <= size else 3)
"""


def check_lmdb(root: Path) -> None:
    """Refuse an LMDB that is cut short or whose tree leads astray.

    Args:
        root: its folder, or the file itself.

    Raises:
        InputError: what is wrong, or that the package lmdb is missing.
    """
    path = root / "data.mdb" if root.is_dir() else root
    size = path.stat().st_size
    with path.open("rb") as file:
        page_size, last = _meta(root, file.read(_META.size), 0)
        file.seek(page_size)
        last = max(last, _meta(root, file.read(_META.size), 1)[1])
    if (last + 1) * page_size > size:
        raise InputError(
            f"{root} is cut short: it states {last + 1:,} pages of {page_size:,} bytes and has {size:,} bytes; {_SENTENCE}"
        )
    command = [sys.executable, "-c", _WALK, str(root), str(root.is_dir()), str(size)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{root} is damaged, or its disk too slow: {SECONDS} s did not reach all keys") from error
    if "No module named 'lmdb'" in done.stderr:
        raise InputError(f"{root} is an LMDB, which needs the package lmdb: pip install lmdb")
    if done.returncode:
        raise InputError(f"{root} is a damaged LMDB: its keys cannot be walked through; {_SENTENCE}")


def _meta(root: Path, head: bytes, number: int) -> tuple[int, int]:
    """Page size and last page that one of the two first pages states."""
    magic, version, _, _, page_size, last, _ = _META.unpack(head) if len(head) == _META.size else (0,) * 7
    if magic != MAGIC or version != VERSION:
        raise InputError(f"{root} is no LMDB, or damaged: its page {number} does not say so; {_SENTENCE}")
    if page_size not in (2**i for i in range(8, 17)):
        raise InputError(f"{root} is a damaged LMDB: it states pages of {page_size:,} bytes; {_SENTENCE}")
    return page_size, last
