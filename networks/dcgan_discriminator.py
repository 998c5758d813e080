"""The discriminator of DCGAN with spectral normalization."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from networks.dcgan_layers import init_dcgan, power_of_two, to_channels_last
from utils.errors import check_number


class DCGANDiscriminator(nn.Module):
    """4² convolutions of stride 2 down to 4², then one logit (DCGAN; spectral norm: IG-GAN, supplement B.1).

    Every layer has spectral norm. There is no batch norm, which would normalize the two branches of discriminator output
    matching separately. Each forward pass in training mode advances the power iteration: compare logits only within one
    call or in eval mode.

    Args:
        image_size: height and width, a power of two of at least 8.
        channels: of the image, 1 for grey.
        width: channels after the first layer; they double with each halving of the image up to ``16 * width``.

    Raises:
        InputError: if ``image_size`` is not a power of two of at least 8.
    """

    def __init__(self, image_size: int = 128, channels: int = 1, width: int = 64) -> None:
        super().__init__()
        self.image_size, self.channels = image_size, channels
        check_number("channels", channels, at_least=1)
        check_number("width", width, at_least=1)
        halvings = power_of_two("image_size", image_size, 8) - 2
        sizes = [channels] + [width << min(i, 4) for i in range(halvings)]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(sizes[-1], 1, 4))
        self.layers = nn.Sequential(*layers)
        init_dcgan(self)
        to_channels_last(self)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Return the logit of "real" for images in [0, 1].

        Raises:
            ValueError: if the images have another size, which would give several logits each.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"the discriminator requires {self.image_size}² images, got {tuple(image.shape)}")
        return self.layers(image * 2 - 1).flatten()
