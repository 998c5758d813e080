"""StyleGAN's discriminator (v1), that of Progressive GAN with blurred downsampling."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.stylegan_generator import check_growth
from networks.stylegan_layers import (
    SLOPE,
    EqualizedConv2d,
    EqualizedLinear,
    blur,
    channels_at,
    halve,
    minibatch_stddev,
)
from networks.voxel_generator import power_of_two


class StyleGANDiscriminator(nn.Module):
    """Images to one logit: at each resolution a way in by a 1² convolution, then two convolutions and a halving.

    At 4² the deviation over the minibatch is added as a map; then a convolution and two fully connected layers. No
    normalization. Samples of one batch see each other (minibatch deviation): real and generated ones go in separately.

    R1's gamma of 10 belongs to gradients with respect to images in [-1, 1]; with respect to this network's input in
    [0, 1] gradients are twice as large, so that gamma 2.5 is the same penalty.

    Args:
        resolution: of the full-grown network, a power of two of at least 4.
        channels: of the image.
        channel_base: feature maps, see :func:`~networks.stylegan_layers.channels_at`; lower for small machines.
        channel_max: likewise.
        stddev_group: samples over which the minibatch deviation is taken; 1 leaves it out.
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
        """Logit of "real" for images in [0, 1] of any resolution that the network has.

        Args:
            image: images; their size says how far the network is grown.
            fade: in [0, 1], as of the generator: weight of this resolution's layers over the way in at half of it.

        Raises:
            ValueError: a resolution that does not exist, nothing to fade from, or a batch that does not divide into groups.
        """
        level = check_growth(image.shape[-1], fade, self.resolution)
        scaled = image * 2 - 1
        x = activate(self.from_image[level](scaled))
        for i in reversed(range(level)):
            x = activate(self.second[i](blur(activate(self.first[i](x)))))
            if fade < 1 and i == level - 1:
                x = torch.lerp(activate(self.from_image[i](halve(scaled))), x, fade)
        if self.stddev_group > 1:
            x = minibatch_stddev(x, self.stddev_group)
        x = activate(self.last(x))
        return self.logit(activate(self.hidden(x.flatten(1)))).flatten()


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
