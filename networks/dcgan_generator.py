"""The generator of DCGAN: a latent vector becomes an image."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from networks.voxel_generator import init_dcgan, power_of_two


class DCGANGenerator(nn.Module):
    """Transposed 4² convolutions from 4² up to S², batch norm and ReLU between, a sigmoid at the end.

    The mirror of :class:`networks.DCGANDiscriminator`: at the default size the channels are 1024, 512, 256, 128, 64, 1.

    Args:
        image_size: S, a power of two of at least 8.
        latent_size: length of z, standard normal.
        width: channels at 4²; they halve with each doubling of the image.
        channels: of the image, 1 for grey.
    """

    def __init__(self, image_size: int = 128, latent_size: int = 200, width: int = 1024, channels: int = 1) -> None:
        super().__init__()
        self.image_size, self.latent_size, self.channels = image_size, latent_size, channels
        doublings = power_of_two("image_size", image_size, 8) - 2
        sizes = [max(width >> i, 1) for i in range(doublings)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_size, sizes[0], 4, 1, 0, bias=False)]
        for before, after in pairwise(sizes):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(sizes[-1]), nn.ReLU(), nn.ConvTranspose2d(sizes[-1], channels, 4, 2, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B C S S"]:
        """Images in [0, 1]."""
        return self.layers(z.view(*z.shape, 1, 1))
