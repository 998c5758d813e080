"""Which implementation of a renderer draws: its plain-torch reference, or a kernel for the device."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor


def choose_backend(name: str, modules: dict[str, str], scene: Tensor) -> ModuleType:
    """The module that draws what lies where ``scene`` does.

    Args:
        name: "torch" (any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the fastest for the scene.
        modules: import paths by name.
        scene: a tensor of the scene, for its device and dtype.

    Raises:
        ValueError: a backend of another device.
        TypeError: a dtype that the backend does not draw.
    """
    kind = scene.device.type
    if name == "auto":
        fast_cuda = scene.dtype == torch.float32 and _has_triton()
        name = "numba" if kind == "cpu" else "triton" if kind == "cuda" and fast_cuda else "torch"
    # Triton's interpreter draws on the CPU, for tests.
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    needed = kind if interpreted else {"numba": "cpu", "triton": "cuda"}.get(name, kind)
    if kind != needed:
        raise ValueError(f"backend {name!r} draws scenes on {needed}, this one is on {scene.device}")
    if name == "triton" and scene.dtype != torch.float32:
        raise TypeError(f"backend 'triton' draws float32 scenes, got {scene.dtype}")
    return importlib.import_module(modules[name])


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
