"""The discriminator of DCGAN with spectral normalization."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from networks.voxel_generator import init_dcgan, power_of_two


class DCGANDiscriminator(nn.Module):
    """4² convolutions of stride 2 down to 4², then one logit (DCGAN; spectral norm: IG-GAN, supplement B.1).

    Spectral norm on every layer and no batch norm, which would normalise the two branches of discriminator output
    matching apart. Each forward in training mode advances the power iteration: compare logits only within one call or in
    eval mode.

    Args:
        image_size: height and width, a power of two of at least 8.
        channels: of the image, 1 for grey.
        width: channels after the first layer; they double with each halving of the image up to ``16 * width``.
    """

    def __init__(self, image_size: int = 128, channels: int = 1, width: int = 64) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        halvings = power_of_two("image_size", image_size, 8) - 2
        sizes = [channels] + [width << min(i, 4) for i in range(halvings)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(sizes[-1], 1, 4))
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)
        self.to(memory_format=torch.channels_last)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Logit of "real" for images in [0, 1].

        Raises:
            ValueError: images of another size, which would give several logits each.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"the discriminator takes {self.image_size}² images, got {tuple(image.shape)}")
        return self.layers(image * 2 - 1).flatten()
