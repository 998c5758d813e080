"""The CUDA backend of the soft rasterizer, float32: Triton kernels for coverage, fragments and textures.

Vertex attributes and normals use the plain-torch code. :mod:`renderers.soft_rasterizer.reference` and
:mod:`renderers.soft_rasterizer.shading` are the specification. With ``TRITON_INTERPRET=1`` in the environment Triton
interprets the kernels on the CPU, slowly: this tests them without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from renderers.meshes.vertex_normals import vertex_normals
from renderers.soft_rasterizer import triton_coverage, triton_fragments
from renderers.soft_rasterizer.autograd import EvaluationKernels, SplatKernels
from renderers.soft_rasterizer.reference import (
    CRISP,
    NEAR,
    THIN,
    Fragments,
    RasterSettings,
    project,
    select_visible,
)
from renderers.soft_rasterizer.shading import splat_attributes

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]

FACES, FRAGMENTS = 32, 128  # lanes per program
EMPTY = (0x7F800000 << 32) | 0x7FFFFFFF  # depth inf, the largest face index


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """Compute :func:`renderers.soft_rasterizer.reference.find_fragments`.

    The depth test packs depth and face into one integer and keeps the minimum, so the result does not depend on the order
    of triangles.
    """
    screen, faces = screen.detach().contiguous(), faces.contiguous()
    batch, vertices, pixels = screen.shape[0], screen.shape[1], settings.size**2
    grid = (triton.cdiv(len(faces), FACES), batch)
    packed = torch.full((batch * pixels,), EMPTY, dtype=torch.int64, device=screen.device)
    shared = (screen, faces, packed, vertices, len(faces), settings.size)
    constants = {
        "NEAR": NEAR,
        "THIN": THIN,
        "CULL": settings.cull_backfaces,
        "PERSPECTIVE": settings.perspective,
        "BLOCK": FACES,
        "num_warps": 1,
        "enable_fp_fusion": False,  # adjacent triangles must get bit-identical values at their shared edge
    }
    if len(faces):
        triton_coverage.crisp[grid](*shared, **constants)
    pixel = torch.nonzero(packed != EMPTY)[:, 0]
    face = packed[pixel] & 0x7FFFFFFF
    edge = torch.full_like(pixel, CRISP)
    if settings.margin == 0 or len(faces) == 0:
        return Fragments(pixel, face, edge)

    capacity = batch * pixels
    while True:
        integers = torch.empty(3, capacity, dtype=torch.int64, device=screen.device)
        floats = torch.empty(2, capacity, device=screen.device)
        counter = torch.zeros(1, dtype=torch.int32, device=screen.device)
        triton_coverage.soft[grid](
            *shared, settings.margin, settings.depth_slope, integers, floats, counter, capacity, **constants
        )
        count = int(counter)
        if count <= capacity:
            break
        capacity = count
    soft_pixel, soft_face, soft_edge = integers[:, :count]
    z, distance = floats[:, :count]
    return select_visible(
        torch.cat([soft_pixel, pixel]),
        torch.cat([soft_face, face]),
        torch.cat([soft_edge, edge]),
        torch.cat([z, torch.full_like(pixel, torch.inf, dtype=z.dtype)]),
        torch.cat([distance / settings.margin, torch.zeros_like(pixel, dtype=z.dtype)]),
    )


def _evaluate_forward(
    screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings, *outputs: Tensor
) -> None:
    if len(fragments.pixel):
        arguments, constants = _evaluation_arguments(screen, faces, fragments, settings)
        triton_fragments.evaluate[_grid(fragments.pixel)](*arguments, *outputs, **constants)


def _evaluate_backward(
    screen: Tensor,
    faces: Tensor,
    fragments: Fragments,
    settings: RasterSettings,
    grads: list[Tensor | None],
    grad_screen: Tensor,
) -> None:
    if len(fragments.pixel):
        arguments, constants = _evaluation_arguments(screen, faces, fragments, settings)
        present = {f"HAS_{n}": g is not None for n, g in zip(("W", "B", "A", "D"), grads, strict=True)}
        pointers = [grad_screen if g is None else g for g in grads]  # an absent gradient is not read
        triton_fragments.evaluate_backward[_grid(fragments.pixel)](
            *arguments, *pointers, grad_screen, **present, **constants
        )


def _evaluation_arguments(
    screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = (screen, faces, fragments.pixel, fragments.face, fragments.edge)
    scalars = (screen.shape[1], len(fragments.pixel), settings.size, settings.margin or 1.0)
    return (*tensors, *scalars), {"PERSPECTIVE": settings.perspective, "BLOCK": FRAGMENTS}


def _grid(fragments: Tensor) -> tuple[int]:
    """Launch one lane per fragment."""
    return (triton.cdiv(len(fragments), FRAGMENTS),)


def _texture_forward(
    indices: tuple[Tensor, ...], weights: Tensor, barycentric: Tensor, texture: Tensor, image: Tensor
) -> None:
    if len(weights):
        arguments = (*indices, weights, barycentric, texture, len(weights), image.shape[-1], *texture.shape[1:])
        triton_fragments.texture_splat[_grid(weights)](*arguments, image, BLOCK=FRAGMENTS)


def _texture_backward(
    indices: tuple[Tensor, ...],
    weights: Tensor,
    barycentric: Tensor,
    texture: Tensor,
    grad: Tensor,
    grad_weights: Tensor,
    grad_barycentric: Tensor,
    grad_texture: Tensor | None,
) -> None:
    if len(weights):
        arguments = (*indices, weights, barycentric, texture, len(weights), grad.shape[-1], *texture.shape[1:])
        pointer = grad_weights if grad_texture is None else grad_texture  # an absent gradient is not written
        triton_fragments.texture_backward[_grid(weights)](
            *arguments,
            grad,
            grad_weights,
            grad_barycentric,
            pointer,
            NEEDS_TEXTURE=grad_texture is not None,
            BLOCK=FRAGMENTS,
        )


evaluate_fragments = EvaluationKernels(_evaluate_forward, _evaluate_backward).evaluate_fragments
splat_texture = SplatKernels(_texture_forward, _texture_backward).splat_texture
