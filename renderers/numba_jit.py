"""Compilation and threading of the CPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba's ``njit``, without the GIL and without fast-math.

    The compiled code is cached next to the source or in the user's cache directory. If neither is writable (a read-only
    container), numba refuses to cache, and the kernel is compiled once per process instead.

    Keep helpers in the file of their callers: a compiled function inlines the compiled functions it calls, and numba's
    cache does not notice when a function in another file changes.
    """
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:
        return numba.njit(function, nogil=True, error_model="numpy")


def as_arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return NumPy views of CPU tensors, without their gradients."""
    return [tensor.detach().numpy() for tensor in tensors]


def map_batch(function: Callable[[int], T], batch: int) -> list[T]:
    """Call ``function`` for each batch index, on up to ``torch.get_num_threads()`` threads."""
    threads = min(torch.get_num_threads(), batch)
    if threads < 2:
        return [function(i) for i in range(batch)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, range(batch)))
