"""The memory that is free, and a limit on what untrusted input may request."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")  # of Linux; its first number is the size of the address space in pages
MEMINFO = Path("/proc/meminfo")


def available_memory() -> float:
    """Return how many bytes of memory programs can use without swapping; infinity on systems other than Linux."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


@contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """Let allocations fail that extend this process by more than ``extra`` bytes; no limit on systems other than Linux.

    Without it, Linux grants almost any request and kills the process, or another one, when the memory is used.
    """
    if not STATM.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + extra
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
