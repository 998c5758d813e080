"""Layers and initialization of the DCGAN and 3D-GAN networks, and helpers that other networks use."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from utils.errors import InputError


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


def upsampling_layers(dims: int, latent_size: int, width: int, doublings: int, out_channels: int) -> nn.Sequential:
    """Build the generator of DCGAN (``dims`` 2) or 3D-GAN (``dims`` 3).

    A transposed convolution from 1 to 4 pixels per side, then one of stride 2 per doubling, all with kernel 4; batch norm
    and ReLU between them, and a sigmoid at the end. ``width`` channels at size 4 halve with each doubling.
    """
    convolution = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
    batch_norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    channels = [max(width >> i, 1) for i in range(doublings)]
    layers: list[nn.Module] = [convolution(latent_size, channels[0], 4, 1, 0, bias=False)]
    for before, after in pairwise(channels):
        layers += [batch_norm(before), nn.ReLU(), convolution(before, after, 4, 2, 1, bias=False)]
    layers += [batch_norm(channels[-1]), nn.ReLU(), convolution(channels[-1], out_channels, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*layers)
