"""The CUDA backend of the soft rasterizer, float32: Triton kernels for the pairs of triangles and pixels, and for what each
fragment computes. Vertex attributes and normals use the plain-torch code.

They do what :mod:`renderers.soft_rasterizer.reference` and :mod:`renderers.soft_rasterizer.shading` specify. With
``TRITON_INTERPRET=1`` in the environment Triton runs them on the CPU, slowly, which is how they are tested without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.meshes.vertex_normals import vertex_normals
from renderers.soft_rasterizer import shading, triton_coverage, triton_fragments
from renderers.soft_rasterizer.reference import (
    CRISP,
    NEAR,
    THIN,
    Fragments,
    RasterSettings,
    keep_what_weighs,
    project,
)
from renderers.soft_rasterizer.shading import splat_attributes

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]

FACES, FRAGMENTS = 32, 128  # lanes of a program
NOTHING = (0x7F800000 << 32) | 0x7FFFFFFF  # depth inf, the last face


def find_fragments(screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], settings: RasterSettings) -> Fragments:
    """As :func:`renderers.soft_rasterizer.reference.find_fragments`.

    The depth test packs depth and face into one integer, of which the least wins: its outcome depends on no order.
    """
    screen, faces = screen.detach().contiguous(), faces.contiguous()
    batch, vertices, pixels = screen.shape[0], screen.shape[1], settings.size**2
    grid = (triton.cdiv(len(faces), FACES), batch)
    packed = torch.full((batch * pixels,), NOTHING, dtype=torch.int64, device=screen.device)
    shared = (screen, faces, packed, vertices, len(faces), settings.size)
    constants = {
        "NEAR": NEAR,
        "THIN": THIN,
        "CULL": settings.cull_backfaces,
        "PERSPECTIVE": settings.perspective,
        "BLOCK": FACES,
        "num_warps": 1,
        "enable_fp_fusion": False,  # triangles must agree about the edges that they share, bit for bit
    }
    if len(faces):
        triton_coverage.crisp[grid](*shared, **constants)
    pixel = torch.nonzero(packed != NOTHING)[:, 0]
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
    return keep_what_weighs(
        torch.cat([soft_pixel, pixel]),
        torch.cat([soft_face, face]),
        torch.cat([soft_edge, edge]),
        torch.cat([z, torch.full_like(pixel, torch.inf, dtype=z.dtype)]),
        torch.cat([distance / settings.margin, torch.zeros_like(pixel, dtype=z.dtype)]),
    )


def evaluate_fragments(
    screen: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"], fragments: Fragments, settings: RasterSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "B 1 S S"], Float[Tensor, "B 1 S S"]]:
    """As :func:`renderers.soft_rasterizer.reference.evaluate_fragments`."""
    return _Evaluate.apply(screen, faces, fragments, settings)


def splat_texture(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    uvs: Float[Tensor, "V 2"],
    texture: Float[Tensor, "B C H W"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """As :func:`renderers.soft_rasterizer.shading.splat_texture`, which also serves UVs that need a gradient."""
    if uvs.requires_grad:
        return shading.splat_texture(fragments, weights, barycentric, faces, uvs, texture, size)
    return _SplatTexture.apply(weights, barycentric, texture, uvs, faces, fragments, size)


def _grid(fragments: Fragments) -> tuple[int]:
    return (triton.cdiv(len(fragments.pixel), FRAGMENTS),)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, screen: Tensor, faces: Tensor, fragments: Fragments, settings: RasterSettings
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        screen = screen.contiguous()
        count, shape = len(fragments.pixel), (len(screen), 1, settings.size, settings.size)
        weights, barycentric = screen.new_empty(count), screen.new_empty(count, 3)
        alpha, depth = screen.new_zeros(shape), screen.new_full(shape, torch.inf)
        inputs = (screen, faces.contiguous(), fragments.pixel, fragments.face, fragments.edge)
        ctx.save_for_backward(*inputs)
        ctx.numbers = (screen.shape[1], count, settings.size, settings.margin or 1.0)
        ctx.constants = {"PERSPECTIVE": settings.perspective, "BLOCK": FRAGMENTS}
        ctx.grid = _grid(fragments)
        ctx.set_materialize_grads(False)
        if count:
            triton_fragments.evaluate[ctx.grid](
                *inputs, *ctx.numbers, weights, barycentric, alpha, depth, **ctx.constants
            )
        return weights, barycentric, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grad_screen = torch.zeros_like(saved[0])
        if ctx.numbers[1]:
            # An absent gradient is any pointer, and not read.
            given = {f"HAS_{n}": g is not None for n, g in zip(("W", "B", "A", "D"), grads, strict=True)}
            arrays = [grad_screen if g is None else g.contiguous() for g in grads]
            triton_fragments.evaluate_backward[ctx.grid](
                *saved, *ctx.numbers, *arrays, grad_screen, **given, **ctx.constants
            )
        return grad_screen, None, None, None


class _SplatTexture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        barycentric: Tensor,
        texture: Tensor,
        uvs: Tensor,
        faces: Tensor,
        fragments: Fragments,
        size: int,
    ) -> Tensor:
        texture, uvs, faces = texture.contiguous(), uvs.contiguous(), faces.contiguous()
        image = texture.new_zeros(*texture.shape[:2], size, size)
        ctx.save_for_backward(faces, fragments.pixel, fragments.face, uvs, weights, barycentric, texture)
        ctx.numbers = (len(fragments.pixel), size, *texture.shape[1:])
        ctx.grid = _grid(fragments)
        if len(fragments.pixel):
            triton_fragments.texture_splat[ctx.grid](
                faces,
                fragments.pixel,
                fragments.face,
                uvs,
                weights,
                barycentric,
                texture,
                *ctx.numbers,
                image,
                BLOCK=FRAGMENTS,
            )
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[2]
        weights, barycentric, texture = saved[4:]
        grads = [torch.empty_like(weights), torch.empty_like(barycentric)]
        grads.append(torch.zeros_like(texture) if wanted else grads[0])
        if ctx.numbers[0]:
            triton_fragments.texture_backward[ctx.grid](
                *saved, *ctx.numbers, grad.contiguous(), *grads, WANTED=wanted, BLOCK=FRAGMENTS
            )
        return grads[0], grads[1], grads[2] if wanted else None, None, None, None, None
