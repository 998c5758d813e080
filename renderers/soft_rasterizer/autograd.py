"""The autograd functions that the kernel backends of the soft rasterizer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.soft_rasterizer import shading
from renderers.soft_rasterizer.reference import Fragments, RasterSettings


@dataclass(frozen=True)
class EvaluationKernels:
    """A backend's kernels for weights and barycentric coordinates. They write into preallocated tensors.

    Args:
        forward: called with screen, faces, fragments, settings, and the outputs weights, barycentric, alpha and depth.
        backward: called with screen, faces, fragments, settings, the list of the outputs' gradients (None where there is
            none), and the zero-filled gradient of screen.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]

    def evaluate_fragments(
        self,
        screen: Float[Tensor, "B V 3"],
        faces: Int[Tensor, "F 3"],
        fragments: Fragments,
        settings: RasterSettings,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "B 1 S S"], Float[Tensor, "B 1 S S"]]:
        """Compute :func:`renderers.soft_rasterizer.reference.evaluate_fragments` with these kernels."""
        return _Evaluate.apply(screen, (faces.contiguous(), fragments, settings), self)


@dataclass(frozen=True)
class SplatKernels:
    """A backend's kernels that blend values over the fragments of each pixel. They write into preallocated tensors.

    Args:
        forward: called with indices (the tensors that need no gradient), weights, barycentric, values, and the zero-filled
            image.
        backward: called with indices, weights, barycentric, values, the image's gradient, the gradients of weights and
            barycentric, and the zero-filled gradient of values, or None if values need none.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]

    def splat(
        self,
        indices: tuple[Tensor, ...],
        weights: Float[Tensor, " N"],
        barycentric: Float[Tensor, "N 3"],
        values: Tensor,
        shape: tuple[int, int, int, int],
    ) -> Float[Tensor, "B C S S"]:
        """Return an image of ``shape``."""
        return _Splat.apply(weights, barycentric, values, indices, shape, self)

    def splat_texture(
        self,
        fragments: Fragments,
        weights: Float[Tensor, " N"],
        barycentric: Float[Tensor, "N 3"],
        faces: Int[Tensor, "F 3"],
        uvs: Float[Tensor, "V 2"],
        texture: Float[Tensor, "B C H W"],
        size: int,
    ) -> Float[Tensor, "B C S S"]:
        """Compute :func:`renderers.soft_rasterizer.shading.splat_texture`; UVs that need a gradient fall back to it."""
        if uvs.requires_grad:
            return shading.splat_texture(fragments, weights, barycentric, faces, uvs, texture, size)
        indices = (faces.contiguous(), fragments.pixel, fragments.face, uvs.contiguous())
        return self.splat(indices, weights, barycentric, texture, (*texture.shape[:2], size, size))


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, screen: Tensor, arguments: tuple[Tensor, Fragments, RasterSettings], kernels: EvaluationKernels
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, fragments, settings = arguments
        screen = screen.contiguous()
        count, shape = len(fragments.pixel), (len(screen), 1, settings.size, settings.size)
        weights, barycentric = screen.new_empty(count), screen.new_empty(count, 3)
        alpha, depth = screen.new_zeros(shape), screen.new_full(shape, torch.inf)
        kernels.forward(screen, *arguments, weights, barycentric, alpha, depth)
        ctx.arguments, ctx.kernels = arguments, kernels
        ctx.save_for_backward(screen)
        ctx.set_materialize_grads(False)
        return weights, barycentric, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (screen,) = ctx.saved_tensors  # raises if screen was modified in place
        grad_screen = torch.zeros_like(screen)
        contiguous = [None if grad is None else grad.contiguous() for grad in grads]
        ctx.kernels.backward(screen, *ctx.arguments, contiguous, grad_screen)
        return grad_screen, None, None


class _Splat(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        barycentric: Tensor,
        values: Tensor,
        indices: tuple[Tensor, ...],
        shape: tuple[int, int, int, int],
        kernels: SplatKernels,
    ) -> Tensor:
        values = values.contiguous()
        image = values.new_zeros(shape)
        kernels.forward(indices, weights, barycentric, values, image)
        ctx.indices, ctx.kernels = indices, kernels
        ctx.save_for_backward(weights, barycentric, values)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, barycentric, values = ctx.saved_tensors
        grad_weights, grad_barycentric = torch.empty_like(weights), torch.empty_like(barycentric)
        grad_values = torch.zeros_like(values) if ctx.needs_input_grad[2] else None
        ctx.kernels.backward(
            ctx.indices,
            weights,
            barycentric,
            values,
            grad.contiguous(),
            grad_weights,
            grad_barycentric,
            grad_values,
        )
        return grad_weights, grad_barycentric, grad_values, None, None, None
