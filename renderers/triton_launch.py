"""Launches of Triton kernels, and whether Triton works on a device."""

from __future__ import annotations

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, /, *arguments: Any, **constants: Any) -> None:
    """Launch a kernel on the device of its first argument, which need not be the current device."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *arguments, **constants)


@lru_cache(maxsize=64)
def triton_problem(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot be used on a CUDA device, or None if they can: a small kernel is compiled and run.

    An installed Triton may lack a C compiler, or not support the GPU.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from renderers.triton_probe import add_one

        x = torch.zeros(1, device=device)
        launch(add_one, (1,), x)
        if float(x) != 1:
            return f"Triton computed {float(x)} instead of 1"
    except Exception as error:  # compilers and drivers raise various types
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return None


@lru_cache(maxsize=64)
def warn_without_triton(device: torch.device, problem: str) -> None:
    """Log once per device that the reference is used instead of Triton's kernels."""
    log.warning(
        "Triton does not work on %s (%s), so renderers use their slower torch backend there; Triton needs a C compiler, "
        "for example apt-get install gcc",
        device,
        problem,
    )
