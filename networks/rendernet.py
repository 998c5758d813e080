"""RenderNet: a convolutional network that renders a rotated voxel grid."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import power_of_two, to_channels_last
from networks.prelu import PReLU
from utils.errors import InputError, check_number


class RenderNet(nn.Module):
    """Voxels to an image: a 3D encoder, a projection of depth into channels, a 2D trunk, and upsampling.

    The layers are RenderNet's with 2 residual blocks in 3D and 4 in 2D (IG-GAN, supplement B.1): a 5³ convolution of stride
    2 (8 channels), 3³ with stride 2 in depth (16), 3³ (32), residual blocks, a 1² convolution from depth times channels to
    ``width`` channels, residual blocks, two 4² convolutions, and transposed convolutions. The original upsamples to 512².
    IG-GAN does not specify how it reduced this to 128²; here the number of doublings follows from ``image_size``.

    A cube rotated about its centre stays within sqrt(3)/2 of the lattice's half-width. The rest of the lattice is empty in
    every view, and the 3D layers skip it (64³ to 56³, 128³ to 112³: two thirds of the work).

    Args:
        lattice_size: S, size of the rotated grid (128 for a 64³ volume), a power of two of at least 8.
        image_size: height and width of the image.
        width: channels of the 2D trunk.
        channels_3d: channels of the three encoding convolutions.
        blocks_3d: residual blocks on the volume.
        blocks_2d: residual blocks on the projection.
        trunk_size: height and width of the trunk: ``S / 2`` as in RenderNet (None), or ``S / 4``, which is much cheaper:
            the second convolution then has stride 2 in every direction.
        out_channels: 1 for grey, 3 for colour.
        initial_intensity: mean intensity of the training images, and of the network's initial output. Images are mostly
            background, and a sigmoid that starts at one half overshoots to saturated black and does not recover.

    Raises:
        InputError: if a size is not a power of two, ``trunk_size`` is not supported, or another number is out of range.
    """

    def __init__(
        self,
        lattice_size: int = 128,
        image_size: int = 128,
        width: int = 1024,
        channels_3d: tuple[int, int, int] = (8, 16, 32),
        blocks_3d: int = 2,
        blocks_2d: int = 4,
        trunk_size: int | None = None,
        out_channels: int = 1,
        initial_intensity: float = 0.05,
    ) -> None:
        super().__init__()
        power_of_two("lattice_size", lattice_size, 8)
        check_number("width", width, at_least=1)
        check_number("blocks_3d", blocks_3d, at_least=0)
        check_number("blocks_2d", blocks_2d, at_least=0)
        for channels in channels_3d:
            check_number("channels_3d", channels, at_least=1)
        check_number("out_channels", out_channels, at_least=1)
        check_number("initial_intensity", initial_intensity, above=0, below=1)
        self.lattice_size, self.image_size = lattice_size, image_size
        trunk_size = lattice_size // 2 if trunk_size is None else trunk_size
        if trunk_size not in (lattice_size // 2, lattice_size // 4):
            raise InputError(f"trunk_size must be a half or a quarter of lattice_size {lattice_size}, got {trunk_size}")
        self.border = 4 * int(lattice_size * (1 - math.sqrt(3) / 2) / 8)  # whole cells of the quarter-size trunk
        self.trunk_size = trunk_size
        doublings = power_of_two("image_size", image_size, trunk_size) - power_of_two("trunk_size", trunk_size, 4)
        c1, c2, c3 = channels_3d
        stride = (2, 1, 1) if trunk_size == lattice_size // 2 else (2, 2, 2)
        self.encoder = nn.Sequential(
            HalvingConv3d(c1),
            PReLU(c1),
            nn.Conv3d(c1, c2, 3, stride, 1),
            PReLU(c2),
            nn.Conv3d(c2, c3, 3, 1, 1),
            PReLU(c3),
            ResidualBlocks(nn.Conv3d, c3, blocks_3d),
        )
        self.projection = nn.Sequential(nn.Conv2d(c3 * (lattice_size - 2 * self.border) // 4, width, 1), PReLU(width))
        half, quarter = max(width // 2, 16), max(width // 4, 16)
        trunk: list[nn.Module] = [ResidualBlocks(nn.Conv2d, width, blocks_2d)]
        trunk += [same_padding(), nn.Conv2d(width, half, 4), PReLU(half)]
        trunk += [same_padding(), nn.Conv2d(half, quarter, 4), PReLU(quarter)]
        for i in range(doublings):
            before, after = max(quarter >> i, 16), max(quarter >> (i + 1), 16)
            trunk += [nn.ConvTranspose2d(before, after, 4, 2, 1), PReLU(after)]
        last = nn.Conv2d(max(quarter >> doublings, 16), out_channels, 4)
        self.trunk = nn.Sequential(*trunk, same_padding(), last, nn.Sigmoid())
        self._initialize(last, initial_intensity)
        to_channels_last(self.encoder, 3)
        to_channels_last(self.projection)
        to_channels_last(self.trunk)

    def _initialize(self, last: nn.Conv2d, initial_intensity: float) -> None:
        """Preserve the signal's scale through 20 layers; with Xavier initialization it decays to 1e-3 and training stalls.

        Each layer has He's scale, the last layer of each residual branch 0.3 times that, and the first layer, whose input
        is a mostly empty grid, four times that.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (layer.in_channels * 4)))  # 4 taps per pixel
            if isinstance(layer, nn.modules.conv._ConvNd) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, ResidualBlocks):
                    for convolution in layer.last_convolutions():
                        convolution.weight.mul_(0.3)
            first = self.encoder[0]
            assert isinstance(first, HalvingConv3d) and last.bias is not None
            first.weight.mul_(4.0)
            nn.init.xavier_uniform_(last.weight)
            last.weight.mul_(0.3)
            last.bias.fill_(math.log(initial_intensity / (1 - initial_intensity)))

    def forward(self, rotated: Float[Tensor, "B 1 S S S"]) -> Float[Tensor, "B C H W"]:
        """Return the image, in [0, 1], of a grid indexed ``[b, c, depth, row, column]``, depth 0 nearest."""
        b, scale = self.border, self.lattice_size // self.trunk_size
        inner = slice(b, self.lattice_size - b)
        volume = self.encoder(rotated[:, :, inner, inner, inner])
        return self.trunk(F.pad(self.projection(volume.flatten(1, 2)), [b // scale] * 4))


def same_padding() -> nn.ZeroPad2d:
    """TensorFlow's "SAME" padding for a 4² convolution: one pixel before, two after."""
    return nn.ZeroPad2d((1, 2, 1, 2))


class ResidualBlocks(nn.Module):
    """n residual blocks [convolution 3, PReLU, convolution 3], then a convolution, with a skip around all of it."""

    def __init__(self, convolution: type[nn.Conv2d] | type[nn.Conv3d], channels: int, n: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                convolution(channels, channels, 3, padding=1),
                PReLU(channels),
                convolution(channels, channels, 3, padding=1),
            )
            for _ in range(n)
        )
        self.skip = convolution(channels, channels, 3, padding=1)

    def last_convolutions(self) -> list[nn.Conv2d | nn.Conv3d]:
        """Return the convolutions whose output is added to a skip connection."""
        ends = [cast(nn.Sequential, block)[-1] for block in self.blocks]
        return [self.skip, *cast(list[nn.Conv2d | nn.Conv3d], ends)]

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape as x."""
        y = x
        for block in self.blocks:
            y = y + block(y)
        return x + self.skip(y)


class HalvingConv3d(nn.Conv3d):
    """5³ convolution of stride 2 on one channel, with TensorFlow's "SAME" padding (1 before, 2 after).

    It is computed as a 3³ convolution on 2³ cells of voxels. The result is the same, but four times as fast on a CPU, where
    strided 3D convolutions of a single channel are slow, in particular their gradients.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__(1, out_channels, 5, stride=2)

    def forward(self, x: Float[Tensor, "B 1 S S S"]) -> Float[Tensor, "B C R R R"]:
        """Return features of size R = S / 2."""
        b, _, d, h, w = x.shape
        cells = x.view(b, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
        cells = cells.reshape(b, 8, d // 2, h // 2, w // 2).contiguous(memory_format=torch.channels_last_3d)
        weight = F.pad(self.weight, (1, 0, 1, 0, 1, 0)).view(-1, 3, 2, 3, 2, 3, 2).permute(0, 2, 4, 6, 1, 3, 5)
        return F.conv3d(cells, weight.reshape(-1, 8, 3, 3, 3), self.bias, padding=1)
