"""The autograd function that the kernel backends of the volume renderers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.volume.reference import MarchSettings, occupancy_gradient


@dataclass(frozen=True)
class MarchKernels:
    """The kernels of a backend. Both write into preallocated tensors.

    ``E = D + 2``: the grid is padded with one voxel, so that no sample needs a bounds check.

    Args:
        forward: called with volume ``(B, 1, E, E, E)``, color ``(B, E, E, E, C)``, rotation ``(B, 3, 3)``, the settings,
            and the outputs alpha ``(B, 1, P, P)`` and image ``(B, C, P, P)``. C is 0 without colour.
        backward: called with volume, color, rotation, the settings, the gradients of alpha and image, the zero-filled
            gradients of volume, color and rotation, and whether the rotation needs its gradient.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]

    def march(
        self,
        occupancy: Float[Tensor, "B 1 D D D"],
        color: Float[Tensor, "B C D D D"] | None,
        rotation: Float[Tensor, "B 3 3"],
        settings: MarchSettings,
    ) -> tuple[Float[Tensor, "B 1 P P"], Float[Tensor, "B K P P"]]:
        """Compute :func:`renderers.volume.reference.march` with these kernels."""
        padded = F.pad(occupancy, [1] * 6)
        padded_color = None
        if color is not None:  # channels last, so that the channels of a voxel are contiguous
            padded_color = F.pad(color, [1] * 6, mode="replicate").permute(0, 2, 3, 4, 1)
        alpha, image = _March.apply(padded, padded_color, rotation, settings, self)
        return alpha, alpha if color is None else image

    def march_surface(
        self, occupancy: Float[Tensor, "B 1 D D D"], rotation: Float[Tensor, "B 3 3"], settings: MarchSettings
    ) -> tuple[Float[Tensor, "B 1 P P"], Float[Tensor, "B 4 P P"]]:
        """Compute :func:`renderers.volume.reference.march_surface`, with the gradient and the depth as colours."""
        gradient = F.pad(occupancy_gradient(occupancy), [1] * 6, mode="replicate")
        fields = torch.cat([gradient, _padded_depths(occupancy.shape[-1], rotation)], 1)
        return _March.apply(F.pad(occupancy, [1] * 6), fields.permute(0, 2, 3, 4, 1), rotation, settings, self)


def _padded_depths(size: int, rotation: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 1 E E E"]:
    """Return the depth of the voxels' centres behind the origin, which is linear and so interpolated exactly."""
    centers = (torch.arange(size + 2, device=rotation.device).to(rotation) - 0.5) / size - 0.5
    x, y, z = (toward * centers for toward in rotation[:, 2, :, None].unbind(1))  # the axis toward the viewer
    return -(x[:, None, None, None, :] + y[:, None, None, :, None] + z[:, None, :, None, None])


class _March(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        volume: Tensor,
        color: Tensor | None,
        rotation: Tensor,
        settings: MarchSettings,
        kernels: MarchKernels,
    ) -> tuple[Tensor, Tensor]:
        batch, size = len(volume), settings.rays.image_size
        volume, rotation = volume.contiguous(), rotation.contiguous()
        color = volume.new_empty(batch, 1, 1, 1, 0) if color is None else color.contiguous()
        alpha = volume.new_empty(batch, 1, size, size)
        image = volume.new_empty(batch, color.shape[-1], size, size)
        kernels.forward(volume, color, rotation, settings, alpha, image)
        ctx.settings, ctx.kernels = settings, kernels
        ctx.save_for_backward(volume, color, rotation)
        return alpha, image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_alpha: Tensor, grad_image: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in saved]
        upstream = grad_alpha.contiguous(), grad_image.contiguous()
        ctx.kernels.backward(*saved, ctx.settings, *upstream, *grads, ctx.needs_input_grad[2])
        return (*masked_grads(ctx, grads), None, None)


def masked_grads(ctx: Any, grads: list[Tensor]) -> list[Tensor | None]:
    """Drop the gradients of leading inputs that need none."""
    return [grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)]
