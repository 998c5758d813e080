"""Compilation of CPU kernels, kept on disk between runs where the disk can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's ``njit``: without the GIL, without bounds checks, IEEE arithmetic as written (no contraction).

    The compiled code is cached beside the source, or in the user's cache folder. Where neither can be written (a read-only
    container), numba refuses to cache at all, and the kernel is compiled once a process instead.

    A function that calls another compiled one holds a copy of it, and the cache does not see that the other changed: keep
    helpers in the file of their callers.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
