"""ShadingNet: a small convolutional network that shades a G-buffer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import to_channels_last
from networks.prelu import PReLU
from utils.errors import check_number


class ShadingNet(nn.Module):
    """Two 3² convolutions with PReLU, a 1² convolution and a sigmoid: each pixel depends on its 5² neighbourhood.

    Args:
        in_channels: channels of the G-buffer; 7 for :class:`renderers.DeferredNeuralRenderer`.
        width: channels of the hidden layers.
        out_channels: 1 for grey, 3 for colour.

    Raises:
        InputError: if a number is less than 1.
    """

    def __init__(self, in_channels: int = 7, width: int = 16, out_channels: int = 1) -> None:
        super().__init__()
        check_number("in_channels", in_channels, at_least=1)
        check_number("width", width, at_least=1)
        check_number("out_channels", out_channels, at_least=1)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            PReLU(width),
            nn.Conv2d(width, width, 3, padding=1),
            PReLU(width),
            nn.Conv2d(width, out_channels, 1),
            nn.Sigmoid(),
        )
        to_channels_last(self)

    def forward(self, g_buffer: Float[Tensor, "B G H W"]) -> Float[Tensor, "B C H W"]:
        """Return the image in [0, 1]."""
        return self.layers(g_buffer)
