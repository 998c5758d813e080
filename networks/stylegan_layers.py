"""Layers of StyleGAN's networks (Karras et al. 2019, and its published code): equalized weights, blur, AdaIN.

Weights are initialized from N(0, 1) and multiplied by He's constant at each use instead of once at initialization. Adam's
steps, which do not depend on the gradient's scale, then change all layers at the same relative speed.
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
from utils.errors import InputError, check_choice, check_number

GAIN = math.sqrt(2)  # He's gain, for a layer before a leaky ReLU
SLOPE = 0.2  # of the leaky ReLU


def channels_at(resolution: int, base: int = 8192, maximum: int = 512) -> int:
    """Return the channels at ``resolution``²: ``min(2 base / resolution, maximum)``; 512 up to 32², 256 at 64², 128 at 128².

    ``base`` is the published ``fmap_base`` with ``fmap_decay`` 1.

    Raises:
        InputError: if ``base`` or ``maximum`` is less than 1.
    """
    check_number("channel_base", base, at_least=1)
    check_number("channel_max", maximum, at_least=1)
    return max(1, min(2 * base // resolution, maximum))


class EqualizedLinear(nn.Module):
    """``x · (c W)ᵀ + m b`` with ``c = m gain / sqrt(in_features)``, W ~ N(0, 1 / m²), b = 0.

    Args:
        in_features: length of the input.
        out_features: length of the output.
        gain: sqrt(2) before a leaky ReLU, 1 otherwise.
        lr_multiplier: m, 0.01 in the mapping network. The initial output does not depend on it; the layer learns m times as
            fast.
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
    """Convolution with ``c W``, ``c = gain / sqrt(in_channels kernel²)``, W ~ N(0, 1); zero padding keeps the size.

    ``resample="up"`` doubles the size (nearest neighbour) before the convolution, ``"down"`` averages 2² pixels after it.
    Both are computed as one 4² convolution of stride 2, with the same result at 4/9 of the cost (the published code does
    this from 128² on).

    Raises:
        InputError: if ``resample`` is another word.
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
        if resample is not None:
            check_choice("resample", resample, ("up", "down"))
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = gain / math.sqrt(in_channels * kernel**2)
        self.resample = resample

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O _ _"]:
        """Return features of size H x W, or twice or half of it."""
        weight = self.weight * self.scale
        if self.resample is None:
            return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)
        if self.resample == "down":
            return F.conv2d(x, _sum_shifts(weight) / 4, self.bias, stride=2, padding=1)
        return F.conv_transpose2d(x, _sum_shifts(weight.flip(2, 3)).transpose(0, 1), self.bias, stride=2, padding=1)


def _sum_shifts(weight: Float[Tensor, "O I K K"]) -> Float[Tensor, "O I L L"]:
    """Convolve the kernel with 2² ones; L = K + 1."""
    rows = F.pad(weight, (0, 0, 1, 0)) + F.pad(weight, (0, 0, 0, 1))
    return F.pad(rows, (1, 0)) + F.pad(rows, (0, 1))


def blur(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Apply the low-pass filter ``[1, 2, 1] ⊗ [1, 2, 1] / 16`` with zero padding."""
    return _Blur.apply(x)


class _Blur(torch.autograd.Function):
    """A symmetric filter with zero padding is its own adjoint, so all its derivatives are blurs.

    Autograd's second derivative of a depthwise convolution, which R1 needs, is one small convolution per channel instead.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        c = x.shape[1]
        kernel = F.pad(x.new_full((1,), 0.5), (1, 1), value=0.25)  # filled on the device: a list would be copied to it
        return F.conv2d(x, torch.outer(kernel, kernel).expand(c, 1, 3, 3), padding=1, groups=c)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Blur.apply(grad)


def upsample(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _ _"]:
    """Upsample by 2 (nearest neighbour), in the dtype of x: autocast on a GPU would return float32."""
    return F.interpolate(x, scale_factor=2, mode="nearest").to(x.dtype)


def downsample(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _ _"]:
    """Downsample by 2 (mean over 2² pixels)."""
    return F.avg_pool2d(x, 2)


def fade_images(images: Float[Tensor, "B C H W"], fade: float) -> Float[Tensor, "B C H W"]:
    """Blend real images with their half-resolution version as a resolution fades in; ``fade`` weights the images."""
    return images if fade == 1 else torch.lerp(upsample(downsample(images)), images, fade)


def pixel_norm(x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
    """Normalize the vectors along dimension 1 to mean square 1 (ProGAN, 1710.10196, section 4.2); keeps the dtype of x."""
    precise = torch.promote_types(x.dtype, torch.float32)
    # Not x.square(): autocast on a GPU computes powers in float32, which keeps a copy of x for the backward pass.
    return x * ((x * x).mean(1, keepdim=True, dtype=precise) + 1e-8).rsqrt().to(x.dtype)


def minibatch_stddev(x: Float[Tensor, "B C H W"], group: int = 4) -> Float[Tensor, "B D H W"]:
    """Append a map with the standard deviation within each sample's group, averaged over channels and pixels.

    The B / G groups are interleaved: sample i is in group ``i mod (B / G)``. In distributed training B counts the samples of
    all ranks.

    Raises:
        InputError: the batch is larger than the group but not a multiple of it.
    """
    b, _, h, w = x.shape
    group = deviation_group(b * rank_count(), group)
    return torch.cat([x, group_deviation(x, group).view(b, 1, 1, 1).expand(b, 1, h, w)], 1)


def deviation_group(total: int, group: int) -> int:
    """Return the size of the groups of :func:`minibatch_stddev` in a batch of ``total`` samples: the batch's at most.

    Raises:
        InputError: the batch is larger than the group but not a multiple of it.
    """
    group = min(group, total)
    if total % group:
        raise InputError(
            f"a batch of {total} images does not divide into groups of {group} for the discriminator's minibatch deviation; "
            f"set the batch size to a multiple of {group}, and drop_last=True in a data loader of your own"
        )
    return group


class AdaIN(nn.Module):
    """Adaptive instance normalization: ``(1 + s) (x - mean) / sqrt(var + 1e-8) + t``, (s, t) linear in the style w.

    Mean and variance are per channel and sample, and are computed in at least float32; the result has the dtype of x. The
    style has gain 1 and bias 0, so the layer starts near the plain normalization.
    """

    def __init__(self, channels: int, style_size: int) -> None:
        super().__init__()
        self.style = EqualizedLinear(style_size, 2 * channels, gain=1.0)

    def forward(self, x: Float[Tensor, "B C H W"], w: Float[Tensor, "B W_"]) -> Float[Tensor, "B C H W"]:
        scale, shift = self.style(w)[..., None, None].chunk(2, 1)
        precise = torch.promote_types(x.dtype, torch.float32)
        x = x - x.mean((2, 3), keepdim=True, dtype=precise).to(x.dtype)
        deviation = ((x * x).mean((2, 3), keepdim=True, dtype=precise) + 1e-8).sqrt()  # not x.square(), see pixel_norm
        return torch.addcmul(shift.to(x.dtype), x, ((1 + scale) / deviation).to(x.dtype))


class StyledLayer(nn.Module):
    """One layer of the synthesis network: convolution, [blur], noise, bias, leaky ReLU, AdaIN, in the published order.

    Everything after the convolution keeps its dtype, which autocast chooses.

    Args:
        in_channels: 0 for the network's first layer, which has no convolution.
        out_channels: number of output channels.
        style_size: length of w.
        up: whether to double the resolution and blur.
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
        """Apply the layer; ``noise`` has one standard normal number per pixel, scaled per channel, or is None."""
        if self.convolution is not None:
            x = self.convolution(x)
        if self.up:
            x = blur(x)
        x = x + self.bias.to(x.dtype)[:, None, None]
        if noise is not None:
            x = torch.addcmul(x, self.noise_strength.to(x.dtype)[:, None, None], noise.to(x.dtype))
        return self.adain(F.leaky_relu(x, SLOPE), w)
