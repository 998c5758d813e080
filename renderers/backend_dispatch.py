"""Selection of a renderer's implementation: the plain-torch reference, or a kernel for the device."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor


def choose_backend(name: str, modules: dict[str, str], scene: Tensor) -> ModuleType:
    """Import the backend module that renders ``scene``.

    Args:
        name: "torch" (any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the fastest for the scene.
        modules: import path of each backend.
        scene: a tensor of the scene, for its device and dtype.

    Raises:
        ValueError: if the backend does not support the scene's device.
        TypeError: if the backend does not support the scene's dtype.
    """
    device = scene.device.type
    if name == "auto":
        fast_cuda = scene.dtype == torch.float32 and _has_triton()
        name = "numba" if device == "cpu" else "triton" if device == "cuda" and fast_cuda else "torch"
    # Triton's interpreter, used in tests, runs on the CPU.
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    required = device if interpreted else {"numba": "cpu", "triton": "cuda"}.get(name, device)
    if device != required:
        raise ValueError(f"backend {name!r} requires scenes on {required}, got a scene on {scene.device}")
    if name == "triton" and scene.dtype != torch.float32:
        raise TypeError(f"backend 'triton' requires float32 scenes, got {scene.dtype}")
    return importlib.import_module(modules[name])


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
