"""The memory that is free, a limit on what untrusted input may request, and reuse of freed memory."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")  # of Linux; its first number is the size of the address space in pages
MEMINFO = Path("/proc/meminfo")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def available_memory() -> float:
    """Return how many bytes of memory programs can use without swapping; infinity on systems other than Linux."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def reuse_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors of up to 32 MiB instead of returning it to the system.

    Otherwise each step of a training on CPUs requests it again, and the system has to clear every page of it. The PyTorch
    tuning guide recommends other allocators for the same reason; this one needs no installation. No effect without glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that glibc accepts
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
