"""The generator of DCGAN: a latent vector becomes an image."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import init_dcgan, power_of_two, to_channels_last, upsampling_layers
from utils.errors import check_number


class DCGANGenerator(nn.Module):
    """Transposed 4² convolutions from 4² to S², with batch norm and ReLU between and a sigmoid at the end.

    It mirrors :class:`networks.DCGANDiscriminator`: at the default size the channels are 1024, 512, 256, 128, 64, 1.

    Args:
        image_size: S, a power of two of at least 8.
        latent_size: length of z, standard normal.
        width: channels at 4²; they halve with each doubling of the image.
        channels: of the image, 1 for grey.

    Raises:
        InputError: if ``image_size`` is not a power of two of at least 8.
    """

    def __init__(self, image_size: int = 128, latent_size: int = 200, width: int = 1024, channels: int = 1) -> None:
        super().__init__()
        check_number("channels", channels, at_least=1)
        self.image_size, self.latent_size, self.channels = image_size, latent_size, channels
        doublings = power_of_two("image_size", image_size, 8) - 2
        self.layers = upsampling_layers(2, latent_size, width, doublings, channels)
        init_dcgan(self)
        to_channels_last(self)

    def forward(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B C S S"]:
        """Return images in [0, 1]."""
        return self.layers(z.view(*z.shape, 1, 1))
