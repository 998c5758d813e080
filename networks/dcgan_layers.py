"""Layers and initialization of the DCGAN and 3D-GAN networks, and helpers that other networks use."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.stylegan_layers import pixel_norm
from utils.errors import InputError, check_choice, check_number


def power_of_two(name: str, value: int, minimum: int) -> int:
    """Return log2 of a size.

    Raises:
        InputError: if it is not a power of two or is less than ``minimum``.
    """
    if value < minimum or value & (value - 1):
        raise InputError(f"{name} must be a power of two of at least {minimum}, got {value}")
    return int(math.log2(value))


def to_channels_last(module: nn.Module, dims: int = 2) -> None:
    """Store the weights of convolutions over ``dims`` (2 or 3) dimensions in channels-last order."""
    memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
    module.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's stubs


def init_dcgan(module: nn.Module) -> None:
    """Initialize weights from N(0, 0.02), batch-norm gains from N(1, 0.02), and biases to 0 (DCGAN)."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def upsampling_layers(
    dims: int,
    latent_size: int,
    width: int,
    doublings: int,
    out_channels: int,
    half: bool = False,
    normalization: Literal["batch", "pixel"] = "batch",
) -> nn.Sequential:
    """Build the generator of DCGAN (``dims`` 2) or 3D-GAN (``dims`` 3).

    A transposed convolution from 1 to 4 pixels per side, then one of stride 2 per doubling, all with kernel 4;
    normalization and ReLU between them, and a sigmoid at the end. ``width`` channels at size 4 halve with each doubling.
    With ``half`` the last axis has half the size.

    Raises:
        InputError: a number is less than 1; an unknown normalization.
    """
    check_choice("normalization", normalization, ("batch", "pixel"))
    check_number("latent_size", latent_size, at_least=1)
    check_number("width", width, at_least=1)
    convolution = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    first = nn.ConvTranspose2d if dims == 2 else FirstConvTranspose3d
    last = nn.ConvTranspose2d if dims == 2 else LastConvTranspose3d
    size = (4,) * (dims - 1) + (2 if half else 4,)
    channels = [max(width >> i, 1) for i in range(doublings)]
    norm = PixelNorm if normalization == "pixel" else nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = [first(latent_size, channels[0], size, 1, 0, bias=False)]  # type: ignore[arg-type]
    for before, after in pairwise(channels):
        layers += [norm(before), nn.ReLU(), convolution(before, after, 4, 2, 1, bias=False)]
    layers += [norm(channels[-1]), nn.ReLU(), last(channels[-1], out_channels, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)


class PixelNorm(nn.Module):
    """Divide the features of each position by their root mean square over the channels (ProGAN, 1710.10196, section 4.2).

    Args:
        channels: not used, as it has no weights; batch norm has the same argument.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
        """Return the normalized features."""
        return pixel_norm(x)


class FirstConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution of a single voxel, without bias: on a CPU computed as a matrix product, three times as fast.

    The weights are stored in channels-last order, so the product reads and writes them without a copy.
    """

    def forward(self, x: Float[Tensor, "B Z 1 1 1"], output_size: list[int] | None = None) -> Tensor:
        """Return features ``(B, C, *kernel_size)``."""
        if x.device.type != "cpu":
            return super().forward(x, output_size)
        weight = self.weight.permute(0, 2, 3, 4, 1)
        return (x.flatten(1) @ weight.flatten(1)).view(len(x), *weight.shape[1:]).permute(0, 4, 1, 2, 3)


class LastConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution of kernel 4, stride 2 and padding 1 to a few channels, with a bias.

    On a CPU it is computed as a 2³ convolution to eight times the channels and a depth-to-space shuffle: the output voxels
    2 i + 1 and 2 i + 2 along an axis are weighted sums of the same input voxels i and i + 1. The result is the same, but
    more than twice as fast, because oneDNN's transposed convolution is slow for one channel. It is faster for many.
    """

    def forward(self, x: Float[Tensor, "B C D H W"], output_size: list[int] | None = None) -> Tensor:
        """Return features of twice the size."""
        if x.device.type != "cpu":
            return super().forward(x, output_size)
        (b, c, d, h, w), out = x.shape, self.out_channels
        assert self.bias is not None
        # Along an axis, output 2 i + 1 + q takes input i + t with the kernel's element 2 (1 - t) + q.
        weight = self.weight.view(c, out, 2, 2, 2, 2, 2, 2).flip(2, 4, 6).permute(3, 5, 7, 1, 0, 2, 4, 6)
        cells = F.conv3d(x, weight.reshape(8 * out, c, 2, 2, 2), self.bias.repeat(8), padding=1)
        cells = cells.reshape(b, 2, 2, 2, out, d + 1, h + 1, w + 1).permute(0, 4, 5, 1, 6, 2, 7, 3)
        return cells.reshape(b, out, 2 * d + 2, 2 * h + 2, 2 * w + 2)[..., 1:-1, 1:-1, 1:-1]
