"""Integrity check of LMDBs. The library trusts its files, so reading a corrupt one can crash the process."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from utils.errors import InputError

MAGIC, VERSION = 0xBEEFC0DE, 1
TIMEOUT = 600  # seconds for the keys of a large set on a slow disk
# A meta page: page header; magic, version, address, map size, page size, trees, last page.
_META = struct.Struct("<16xIIQQI92xQQ")
_FIX = "download or copy it again"
# Walks all keys in a subprocess. Addresses of values are compared with the file's size; their pages are not touched.
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
    """Check that an LMDB is complete and that its tree can be walked.

    Args:
        root: its folder, or the file itself.

    Raises:
        InputError: the LMDB is corrupt, or the package lmdb is missing.
    """
    path = root / "data.mdb" if root.is_dir() else root
    size = path.stat().st_size
    with path.open("rb") as file:
        page_size, last = _read_meta(root, file.read(_META.size), 0)
        file.seek(page_size)
        last = max(last, _read_meta(root, file.read(_META.size), 1)[1])
    if (last + 1) * page_size > size:
        raise InputError(
            f"{root} is truncated: it declares {last + 1:,} pages of {page_size:,} bytes but has {size:,} bytes; {_FIX}"
        )
    command = [sys.executable, "-c", _WALK, str(root), str(root.is_dir()), str(size)]
    try:
        walk = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{root} is corrupt or its disk too slow: its keys could not be read within {TIMEOUT} s; {_FIX}"
        ) from error
    if "No module named 'lmdb'" in walk.stderr:
        raise InputError(f"{root} is an LMDB, which requires the package lmdb: pip install lmdb")
    if walk.returncode:
        raise InputError(f"{root} is a corrupt LMDB: its keys cannot be read; {_FIX}")


def _read_meta(root: Path, page: bytes, number: int) -> tuple[int, int]:
    """Return the page size and the last page that one of the two meta pages declares."""
    magic, version, _, _, page_size, last, _ = _META.unpack(page) if len(page) == _META.size else (0,) * 7
    if magic != MAGIC or version != VERSION:
        raise InputError(f"{root} is not an LMDB or is corrupt: page {number} is not a meta page; {_FIX}")
    if page_size not in (2**i for i in range(8, 17)):
        raise InputError(f"{root} is a corrupt LMDB: it declares pages of {page_size:,} bytes; {_FIX}")
    return page_size, last
