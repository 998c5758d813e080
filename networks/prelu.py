"""PReLU with a fast backward pass on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class PReLU(nn.PReLU):
    """PReLU with one slope per channel, as in RenderNet, but initialized to 0.2 instead of 0 so that gradients pass.

    Weights and results are those of :class:`torch.nn.PReLU`, whose backward pass on CPUs is not vectorized.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, init=0.2)

    def forward(self, input: Float[Tensor, "B C *spatial"]) -> Float[Tensor, "B C *spatial"]:
        """Return ``max(0, x) + a min(0, x)`` with one slope a per channel (He et al. 2015, eq. 1)."""
        if input.device.type == "cpu" and torch.is_grad_enabled():
            return _VectorizedPReLU.apply(input, self.weight)
        return super().forward(input)


class _VectorizedPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(x, slopes)
        return torch.nn.functional.prelu(x, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slopes = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(grad, x, 0)  # grad where x > 0, else 0; faster than torch.where
        negative = grad - positive
        spatial = tuple(range(2, x.ndim))
        by_slopes = (negative * x).sum((0, *spatial))
        return positive.addcmul_(negative, slopes.view(-1, *[1] * len(spatial))), by_slopes
