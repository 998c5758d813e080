"""The CUDA backend of the volume renderers, float32; see :mod:`renderers.volume.triton_kernels`.

With ``TRITON_INTERPRET=1`` in the environment Triton interprets the kernels on the CPU, slowly: this tests them without a
GPU.
"""

from __future__ import annotations

from typing import Any

import triton
from torch import Tensor

from renderers.triton_launch import launch
from renderers.volume import triton_kernels
from renderers.volume.autograd import MarchKernels
from renderers.volume.reference import MarchSettings

BLOCK = 128  # pixels per program
MAX_PROGRAMS = 1056  # of the backward pass, which share its scratch: 8 per multiprocessor of the largest devices


def _forward(
    volume: Tensor, color: Tensor, rotation: Tensor, settings: MarchSettings, alpha: Tensor, image: Tensor
) -> None:
    launch(
        triton_kernels.forward,
        (_tiles(volume, settings),),
        volume,
        color,
        rotation,
        *_scalars(volume, color, settings),
        alpha,
        image,
        **_constants(color, settings),
    )


def _backward(
    volume: Tensor,
    color: Tensor,
    rotation: Tensor,
    settings: MarchSettings,
    grad_alpha: Tensor,
    grad_image: Tensor,
    grad_volume: Tensor,
    grad_color: Tensor,
    grad_rotation: Tensor,
    needs_rotation: bool,
) -> None:
    tiles = _tiles(volume, settings)
    programs = min(tiles, MAX_PROGRAMS)
    constants = _constants(color, settings)
    scratch = volume.new_empty(1 if constants["HULL"] else programs * settings.rays.samples * BLOCK)
    launch(
        triton_kernels.backward,
        (programs,),
        volume,
        color,
        rotation,
        *_scalars(volume, color, settings),
        grad_alpha,
        grad_image,
        grad_volume,
        grad_color,
        grad_rotation,
        scratch,
        tiles,
        programs,
        NEEDS_ROTATION=needs_rotation,
        **constants,
    )


def _tiles(volume: Tensor, settings: MarchSettings) -> int:
    """Blocks of pixels in the batch."""
    return triton.cdiv(settings.rays.image_size**2, BLOCK) * len(volume)


def _scalars(volume: Tensor, color: Tensor, settings: MarchSettings) -> tuple[Any, ...]:
    rays = settings.rays
    camera = rays.half_extent, rays.distance
    return volume.shape[-1] - 2, rays.image_size, rays.samples, *camera, settings.density, color.shape[-1]


def _constants(color: Tensor, settings: MarchSettings) -> dict[str, Any]:
    channels = color.shape[-1]
    return {
        "PERSPECTIVE": settings.rays.perspective,
        "HULL": settings.law == "visual_hull",
        "COLORED": channels > 0,
        "CHANNELS": triton.next_power_of_2(max(channels, 1)),
        "BLOCK": BLOCK,
    }


kernels = MarchKernels(_forward, _backward)
march, march_surface = kernels.march, kernels.march_surface
