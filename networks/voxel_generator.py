"""The generator of 3D-GAN: a latent vector becomes an occupancy grid."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from utils.errors import InputError


def power_of_two(name: str, value: int, least: int) -> int:
    """log2 of a size.

    Raises:
        InputError: if it is no power of two or less than ``least``.
    """
    if value < least or value & (value - 1):
        raise InputError(f"{name} must be a power of two of at least {least}, got {value}")
    return int(math.log2(value))


def init_dcgan(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch-norm gains N(1, 0.02), biases 0 (DCGAN)."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


class VoxelGenerator(nn.Module):
    """3D-GAN: transposed 4³ convolutions from 4³ up to D³, batch norm and ReLU between, a sigmoid at the end.

    At the default size the channels are 512, 256, 128, 64, 1 (IG-GAN, supplement B.1; 3D-GAN).

    Args:
        voxel_size: D, a power of two of at least 8.
        latent_size: length of z, standard normal.
        width: channels at 4³; they halve with each doubling of the grid.
        out_channels: 1 for occupancy alone; more for colour beside it.
        initial_occupancy: what every voxel is near before training (its logit is the last bias; colour begins at one half).
            Empty space is the rule in a grid, and a proxy that has seen solid shapes says nothing useful about a fog of
            one half.
    """

    def __init__(
        self,
        voxel_size: int = 64,
        latent_size: int = 200,
        width: int = 512,
        out_channels: int = 1,
        initial_occupancy: float = 0.5,
    ) -> None:
        super().__init__()
        self.voxel_size, self.latent_size, self.out_channels = voxel_size, latent_size, out_channels
        doublings = power_of_two("voxel_size", voxel_size, 8) - 2
        channels = [max(width >> i, 1) for i in range(doublings)]
        layers: list[nn.Module] = [nn.ConvTranspose3d(latent_size, channels[0], 4, 1, 0, bias=False)]
        for previous, current in pairwise(channels):
            layers += [nn.BatchNorm3d(previous), nn.ReLU(), nn.ConvTranspose3d(previous, current, 4, 2, 1, bias=False)]
        last = nn.ConvTranspose3d(channels[-1], out_channels, 4, 2, 1)
        layers += [nn.BatchNorm3d(channels[-1]), nn.ReLU(), last, nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)
        nn.init.constant_(last.bias.data[:1], math.log(initial_occupancy / (1 - initial_occupancy)))
        self.to(memory_format=torch.channels_last_3d)  # 1.5 to 4 times faster on CPUs, and on tensor cores

    def forward(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B C D D D"]:
        """Occupancy (channel 0) and colour in [0, 1], indexed ``[b, c, z, y, x]``."""
        return self.layers(z.view(*z.shape, 1, 1, 1))
