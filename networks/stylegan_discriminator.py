"""StyleGAN's discriminator (v1): Progressive GAN's with blurred downsampling."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import power_of_two
from networks.stylegan_generator import check_growth
from networks.stylegan_layers import (
    SLOPE,
    EqualizedConv2d,
    EqualizedLinear,
    blur,
    channels_at,
    downsample,
    minibatch_stddev,
)
from utils.errors import check_number


class StyleGANDiscriminator(nn.Module):
    """Images to one logit. Each resolution has an input layer (1² convolution), two convolutions and downsampling.

    At 4² the minibatch deviation is appended as a map, followed by a convolution and two fully connected layers. There is no
    normalization. The minibatch deviation couples the samples of a batch: pass real and generated images separately.

    R1's gamma of 10 refers to gradients with respect to images in [-1, 1]. Gradients with respect to this network's input in
    [0, 1] are twice as large, so gamma 2.5 gives the same penalty.

    Args:
        resolution: of the fully grown network, a power of two of at least 4.
        channels: of the image.
        channel_base: see :func:`~networks.stylegan_layers.channels_at`; use less on small machines.
        channel_max: see :func:`~networks.stylegan_layers.channels_at`.
        stddev_group: number of samples per group of the minibatch deviation; 1 disables it.

    Raises:
        InputError: if ``resolution`` is not a power of two of at least 4, or another number is less than 1.
    """

    def __init__(
        self,
        resolution: int = 128,
        channels: int = 3,
        channel_base: int = 8192,
        channel_max: int = 512,
        stddev_group: int = 4,
    ) -> None:
        super().__init__()
        check_number("channels", channels, at_least=1)
        check_number("stddev_group", stddev_group, at_least=1)
        self.resolution, self.channels, self.stddev_group = resolution, channels, stddev_group
        levels = power_of_two("resolution", resolution, 4) - 1
        widths = [channels_at(4 << level, channel_base, channel_max) for level in range(levels)]
        self.from_image = nn.ModuleList(EqualizedConv2d(channels, width, 1) for width in widths)
        self.first = nn.ModuleList(EqualizedConv2d(width, width, 3) for width in widths[1:])
        self.second = nn.ModuleList(
            EqualizedConv2d(width, lower, 3, resample="down") for lower, width in pairwise(widths)
        )
        hidden = channels_at(2, channel_base, channel_max)
        self.last = EqualizedConv2d(widths[0] + (stddev_group > 1), widths[0], 3)
        self.hidden = EqualizedLinear(16 * widths[0], hidden)
        self.logit = EqualizedLinear(hidden, 1, gain=1.0)

    def forward(self, image: Float[Tensor, "B C R R"], fade: float = 1.0) -> Float[Tensor, " B"]:
        """Return the logit of "real" for images in [0, 1] of any resolution of the network.

        Args:
            image: images; their size determines how far the network is grown.
            fade: in [0, 1], as for the generator: weight of this resolution's layers relative to the input layer at half
                the resolution.

        Raises:
            ValueError: if the resolution does not exist, ``fade`` is invalid, or the batch does not divide into groups.
        """
        level = check_growth(image.shape[-1], fade, self.resolution)
        scaled = image * 2 - 1
        x = _activate(self.from_image[level](scaled))
        for i in reversed(range(level)):
            x = _activate(self.second[i](blur(_activate(self.first[i](x)))))
            if fade < 1 and i == level - 1:
                x = torch.lerp(_activate(self.from_image[i](downsample(scaled))), x, fade)
        if self.stddev_group > 1:
            x = minibatch_stddev(x, self.stddev_group)
        x = _activate(self.last(x))
        return self.logit(_activate(self.hidden(x.flatten(1)))).flatten()


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
