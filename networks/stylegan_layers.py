"""What StyleGAN's networks are made of (Karras et al. 2019, and its published code): equalized weights, blur, AdaIN.

Every learnt weight is drawn from N(0, 1) and multiplied by He's constant each time that it is used, not once at the start:
Adam's steps, which do not depend on the gradient's scale, then change all layers at one relative speed.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.synced_layers import group_deviation
from utils.distributed import rank_count

GAIN = math.sqrt(2)  # He's, for a layer before a leaky ReLU
SLOPE = 0.2


def channels_at(resolution: int, base: int = 8192, maximum: int = 512) -> int:
    """Feature maps at ``resolution``²: ``min(2 base / resolution, maximum)``; 512 up to 32², 256 at 64², 128 at 128².

    ``base`` is the published ``fmap_base`` with ``fmap_decay`` 1.
    """
    return max(1, min(2 * base // resolution, maximum))


class EqualizedLinear(nn.Module):
    """``x · (c W)ᵀ + m b`` with ``c = m gain / sqrt(in_features)``, W ~ N(0, 1 / m²), b = 0.

    Args:
        gain: sqrt(2) before a leaky ReLU, 1 where none follows.
        lr_multiplier: m. The layer computes the same at the start and learns m times as fast: 0.01 in the mapping network.
    """

    def __init__(self, in_features: int, out_features: int, gain: float = GAIN, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = lr_multiplier * gain / math.sqrt(in_features)
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Float[Tensor, "B I"]) -> Float[Tensor, "B O"]:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_multiplier)


class EqualizedConv2d(nn.Module):
    """Convolution by ``c W``, ``c = gain / sqrt(in_channels kernel²)``, W ~ N(0, 1); zero padding keeps the size.

    ``resample="up"`` is nearest-neighbour doubling before it, ``"down"`` a mean over 2² pixels after it. Both are computed
    as one 4² convolution of stride 2, at 4/9 of the cost: the same numbers (the published code does so from 128² on).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        gain: float = GAIN,
        bias: bool = True,
        resample: Literal["up", "down"] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = gain / math.sqrt(in_channels * kernel**2)
        self.resample = resample

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O _ _"]:
        """H x W, or twice or half of it."""
        weight = self.weight * self.scale
        if self.resample is None:
            return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
        if self.resample == "down":
            return F.conv2d(x, spread(weight) / 4, self.bias, stride=2, padding=1)
        return F.conv_transpose2d(x, spread(weight.flip(2, 3)).transpose(0, 1), self.bias, stride=2, padding=1)


def spread(weight: Float[Tensor, "O I K K"]) -> Float[Tensor, "O I L L"]:
    """The kernel convolved with 2² ones; L = K + 1."""
    rows = F.pad(weight, (0, 0, 1, 0)) + F.pad(weight, (0, 0, 0, 1))
    return F.pad(rows, (1, 0)) + F.pad(rows, (0, 1))


def blur(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Low-pass filter ``[1, 2, 1] ⊗ [1, 2, 1] / 16`` with zeros around."""
    return _Blur.apply(x)


class _Blur(torch.autograd.Function):
    """A symmetric filter with zeros around is its own adjoint, so all of its derivatives are blurs.

    Autograd's second derivative of a depthwise convolution, which R1 takes, is one small convolution a channel instead.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kernel, c = x.new_tensor([0.25, 0.5, 0.25]), x.shape[1]
        return F.conv2d(x, torch.outer(kernel, kernel).expand(c, 1, 3, 3), padding=1, groups=c)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Blur.apply(grad)


def double(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _ _"]:
    """Nearest-neighbour upsampling by 2."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def halve(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _ _"]:
    """Mean over 2² pixels."""
    return F.avg_pool2d(x, 2)


def fade_images(images: Float[Tensor, "B C H W"], fade: float) -> Float[Tensor, "B C H W"]:
    """Real images as they are shown while a resolution fades in: ``fade`` of them, the rest of half the resolution."""
    return images if fade == 1 else torch.lerp(double(halve(images)), images, fade)


def pixel_norm(x: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """Vectors of mean square 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def minibatch_stddev(x: Float[Tensor, "B C H W"], group: int = 4) -> Float[Tensor, "B D H W"]:
    """x and one more map: how much the samples of a group differ, a constant for each group.

    The deviation over the group, of each channel and pixel, averaged over those. The B / G groups are interleaved:
    sample i is in group ``i mod (B / G)``. In distributed training B counts the samples of all ranks.

    Raises:
        ValueError: a batch larger than the group that is no multiple of it.
    """
    b, _, h, w = x.shape
    total = b * rank_count()
    group = min(group, total)
    if total % group:
        raise ValueError(f"a batch of {total} does not divide into groups of {group} for the minibatch deviation")
    return torch.cat([x, group_deviation(x, group).view(b, 1, 1, 1).expand(b, 1, h, w)], 1)


class AdaIN(nn.Module):
    """Adaptive instance normalization: ``(1 + s) (x - mean) / sqrt(var + 1e-8) + t``, (s, t) linear in the style w.

    Mean and variance are of each channel of each sample. Gain 1 and bias 0, so it starts near the plain normalization.
    """

    def __init__(self, channels: int, style_size: int) -> None:
        super().__init__()
        self.style = EqualizedLinear(style_size, 2 * channels, gain=1.0)

    def forward(self, x: Float[Tensor, "B C H W"], w: Float[Tensor, "B W_"]) -> Float[Tensor, "B C H W"]:
        scale, shift = self.style(w)[..., None, None].chunk(2, 1)
        x = x - x.mean((2, 3), keepdim=True)
        deviation = (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
        return torch.addcmul(shift, x, (1 + scale) / deviation)


class StyledLayer(nn.Module):
    """One layer of the synthesis network: convolution, [blur], noise, bias, leaky ReLU, AdaIN; in the published order.

    Args:
        in_channels: 0 for the first layer of all, which has no convolution.
        out_channels: of the layer.
        style_size: length of w.
        up: double the resolution, then blur.
    """

    def __init__(self, in_channels: int, out_channels: int, style_size: int, up: bool = False) -> None:
        super().__init__()
        resample: Literal["up"] | None = "up" if up else None
        self.convolution = (
            EqualizedConv2d(in_channels, out_channels, 3, bias=False, resample=resample) if in_channels else None
        )
        self.noise_strength = nn.Parameter(torch.zeros(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.adain = AdaIN(out_channels, style_size)
        self.up = up

    def forward(
        self, x: Float[Tensor, "B I _ _"], w: Float[Tensor, "B W_"], noise: Float[Tensor, "#B 1 H W"] | None
    ) -> Float[Tensor, "B O H W"]:
        """``noise`` is one standard normal number a pixel, scaled for each channel; None is none."""
        if self.convolution is not None:
            x = self.convolution(x)
        if self.up:
            x = blur(x)
        x = x + self.bias[:, None, None]
        if noise is not None:
            x = torch.addcmul(x, self.noise_strength[:, None, None], noise)
        return self.adain(F.leaky_relu(x, SLOPE), w)
