"""RenderNet: a convolutional network that draws a rotated voxel grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.voxel_generator import power_of_two
from utils.errors import InputError


class RenderNet(nn.Module):
    """Voxels to an image: a 3D encoder, a projection of depth into channels, a 2D trunk, and upsampling.

    RenderNet's layers with 2 residual blocks in 3D and 4 in 2D (IG-GAN, supplement B.1): 5³ convolution of stride 2 (8
    channels), 3³ of stride 2 in depth (16), 3³ (32), residual blocks, then depth times channels becomes ``width``
    channels by a 1² convolution, residual blocks, two 4² convolutions and as many transposed ones as the image needs.
    The original upsamples to 512²; how IG-GAN cut that to 128² is not
    said, so here there are just as many doublings as ``image_size`` takes.

    A cube turned about its centre stays within sqrt(3)/2 of the lattice's half-width: the rest of the lattice is empty
    whatever the view, and the 3D layers leave it out (64³ to 56³, 128³ to 112³: two thirds of the work).

    Args:
        lattice_size: S, size of the rotated grid (128 for a 64³ volume).
        image_size: height and width of the image.
        width: channels of the 2D trunk.
        channels_3d: channels of the three encoding convolutions.
        blocks_3d: residual blocks on the volume.
        blocks_2d: residual blocks on the projection.
        trunk_size: height and width of the trunk: ``S / 2`` as in RenderNet (None) or ``S / 4``, far cheaper, where the
            second convolution has stride 2 in every direction.
        out_channels: 1 for grey, 3 for colour.
        initial_intensity: mean of the images to come. Images are mostly background, and a sigmoid that starts at one
            half overshoots into saturated black for ever; so the network starts with a faint image of this grey.
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
            prelu(c1),
            nn.Conv3d(c1, c2, 3, stride, 1),
            prelu(c2),
            nn.Conv3d(c2, c3, 3, 1, 1),
            prelu(c3),
            ResidualBlocks(nn.Conv3d, c3, blocks_3d),
        )
        self.projection = nn.Sequential(nn.Conv2d(c3 * (lattice_size - 2 * self.border) // 4, width, 1), prelu(width))
        half, quarter = max(width // 2, 16), max(width // 4, 16)
        trunk: list[nn.Module] = [ResidualBlocks(nn.Conv2d, width, blocks_2d)]
        trunk += [same_padding(), nn.Conv2d(width, half, 4), prelu(half)]
        trunk += [same_padding(), nn.Conv2d(half, quarter, 4), prelu(quarter)]
        for i in range(doublings):
            before, after = max(quarter >> i, 16), max(quarter >> (i + 1), 16)
            trunk += [nn.ConvTranspose2d(before, after, 4, 2, 1), prelu(after)]
        last = nn.Conv2d(max(quarter >> doublings, 16), out_channels, 4)
        self.trunk = nn.Sequential(*trunk, same_padding(), last, nn.Sigmoid())
        self._initialize(last, initial_intensity)
        self.encoder.to(memory_format=torch.channels_last_3d)
        self.projection.to(memory_format=torch.channels_last)
        self.trunk.to(memory_format=torch.channels_last)

    def _initialize(self, last: nn.Conv2d, initial_intensity: float) -> None:
        """Keep the signal's size through 20 layers: with Xavier's it fades to 1e-3 and nothing is learnt for long.

        He's scale for each layer, a third of it for what a residual branch adds, four times for the first layer, whose
        input is a grid that is nearly empty.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (layer.in_channels * 4)))  # 4 taps reach a pixel
            if isinstance(layer, nn.modules.conv._ConvNd):
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, ResidualBlocks):
                    for convolution in [layer.skip, *(block[-1] for block in layer.blocks)]:
                        convolution.weight.mul_(0.3)
            self.encoder[0].weight.mul_(4.0)
            nn.init.xavier_uniform_(last.weight)
            last.weight.mul_(0.3)
            last.bias.fill_(math.log(initial_intensity / (1 - initial_intensity)))

    def forward(self, rotated: Float[Tensor, "B 1 S S S"]) -> Float[Tensor, "B C H W"]:
        """Image in [0, 1] of a grid that is indexed ``[b, c, depth, row, column]``, depth 0 nearest."""
        b, scale = self.border, self.lattice_size // self.trunk_size
        inner = slice(b, self.lattice_size - b)
        volume = self.encoder(rotated[:, :, inner, inner, inner])
        return self.trunk(F.pad(self.projection(volume.flatten(1, 2)), [b // scale] * 4))


def prelu(channels: int) -> nn.PReLU:
    """One slope a channel, as in RenderNet. It starts at 0.2, not at RenderNet's 0, to pass gradients from the start."""
    return nn.PReLU(channels, init=0.2)


def same_padding() -> nn.ZeroPad2d:
    """TensorFlow's "SAME" for a 4² convolution: one pixel before, two after."""
    return nn.ZeroPad2d((1, 2, 1, 2))


class ResidualBlocks(nn.Module):
    """n times [3 convolution, PReLU, 3 convolution] with identity around each, then a convolution with a long skip."""

    def __init__(self, convolution: type[nn.Conv2d] | type[nn.Conv3d], channels: int, n: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                convolution(channels, channels, 3, padding=1),
                prelu(channels),
                convolution(channels, channels, 3, padding=1),
            )
            for _ in range(n)
        )
        self.skip = convolution(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x."""
        y = x
        for block in self.blocks:
            y = y + block(y)
        return x + self.skip(y)


class HalvingConv3d(nn.Conv3d):
    """5³ convolution of stride 2 on one channel, with TensorFlow's "SAME" padding (1 before, 2 after).

    Computed as a 3³ convolution on 2³ cells of voxels: the same numbers, four times as fast on a CPU, where strided 3D
    convolutions of a single channel are slow, their gradients above all.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__(1, out_channels, 5, stride=2)

    def forward(self, x: Float[Tensor, "B 1 S S S"]) -> Float[Tensor, "B C R R R"]:
        """R = S / 2."""
        b, _, d, h, w = x.shape
        cells = x.view(b, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
        cells = cells.reshape(b, 8, d // 2, h // 2, w // 2).contiguous(memory_format=torch.channels_last_3d)
        weight = F.pad(self.weight, (1, 0, 1, 0, 1, 0)).view(-1, 3, 2, 3, 2, 3, 2).permute(0, 2, 4, 6, 1, 3, 5)
        return F.conv3d(cells, weight.reshape(-1, 8, 3, 3, 3), self.bias, padding=1)
