"""Selection of a renderer's implementation: the plain-torch reference, or a kernel for the device."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch
from torch import Tensor

from renderers.triton_launch import triton_problem, warn_without_triton
from utils.errors import InputError


def choose_backend(name: str, modules: dict[str, str], scene: Tensor) -> ModuleType:
    """Import the backend module that renders ``scene``.

    Args:
        name: "torch" (any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the fastest for the scene. If Triton
            does not work on the scene's GPU, "auto" is "torch", with a warning.
        modules: import path of each backend.
        scene: a tensor of the scene, for its device and dtype.

    Raises:
        ValueError: if the backend does not support the scene's device.
        TypeError: if the backend does not support the scene's dtype.
        InputError: if the backend is "triton", and Triton does not work on the scene's GPU.
    """
    device = scene.device.type
    automatic = name == "auto"
    if automatic:
        fast = {"cpu": "numba", "cuda": "triton" if scene.dtype == torch.float32 else "torch"}
        name = fast.get(device, "torch")
    # Triton's interpreter, used in tests, runs on the CPU.
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    required = device if interpreted else {"numba": "cpu", "triton": "cuda"}.get(name, device)
    if device != required:
        raise ValueError(f"backend {name!r} requires scenes on {required}, got a scene on {scene.device}")
    if name == "triton" and scene.dtype != torch.float32:
        raise TypeError(f"backend 'triton' requires float32 scenes, got {scene.dtype}")
    if name == "triton" and not interpreted and (problem := triton_problem(scene.device)):
        if not automatic:
            raise InputError(
                f"backend 'triton' does not work on {scene.device} ({problem}); use backend 'torch', or install what Triton "
                "needs, such as a C compiler: apt-get install gcc"
            )
        warn_without_triton(scene.device, problem)
        name = "torch"
    return importlib.import_module(modules[name])
