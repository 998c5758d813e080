"""The generator of 3D-GAN: a latent vector becomes an occupancy grid."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import init_dcgan, power_of_two, to_channels_last, upsampling_layers
from utils.errors import InputError, check_number


class VoxelGenerator(nn.Module):
    """3D-GAN: transposed 4³ convolutions from 4³ to D³, with normalization and ReLU between and a sigmoid at the end.

    At the default size the channels are 512, 256, 128, 64, 1 (IG-GAN, supplement B.1; 3D-GAN).

    Args:
        voxel_size: D, a power of two of at least 8.
        latent_size: length of z, standard normal.
        width: channels at 4³; they halve with each doubling of the grid.
        out_channels: 1 for occupancy only; more add colour.
        initial_occupancy: approximate occupancy of every voxel before training (its logit is the last bias; colour starts
            at one half). Grids are mostly empty, and the output of a proxy trained on solid shapes is meaningless for a
            uniform occupancy of one half.
        smoothing: number of times the last layer's output is filtered with :class:`BinomialFilter3d` before the sigmoid.
            One filter suppresses the loose voxels and checkerboards that a transposed convolution can produce. Not in
            the paper.
        mirrored: whether shapes are symmetric about the plane x = 0: the network generates the half x > 0, in half the
            time, and mirrors it. Images from random azimuths do not determine a shape's heading, which then differs
            between shapes; most objects are symmetric, and symmetry fixes it. But elongated shapes may end with their
            length along the plane, which is wrong for couches. Not in the paper.
        color_size: number of colours along each axis, which divides ``voxel_size``; see :class:`CoarseColor`. None gives
            each voxel a colour of its own.
        normalization: ``batch`` (the paper's), or ``pixel``: the features of each voxel are divided by their root mean
            square (:class:`~networks.dcgan_layers.PixelNorm`). The statistics of a batch of a few shapes are noisy.

    Raises:
        InputError: if ``voxel_size`` is not a power of two of at least 8, ``smoothing`` is negative, ``color_size`` does not
            divide it or is given without colour, or the normalization is unknown.
    """

    def __init__(
        self,
        voxel_size: int = 64,
        latent_size: int = 200,
        width: int = 512,
        out_channels: int = 1,
        initial_occupancy: float = 0.5,
        smoothing: int = 0,
        mirrored: bool = False,
        color_size: int | None = None,
        normalization: Literal["batch", "pixel"] = "batch",
    ) -> None:
        super().__init__()
        check_number("out_channels", out_channels, at_least=1)
        check_number("smoothing", smoothing, at_least=0)
        check_number("initial_occupancy", initial_occupancy, above=0, below=1)
        self.voxel_size, self.latent_size, self.out_channels = voxel_size, latent_size, out_channels
        doublings = power_of_two("voxel_size", voxel_size, 8) - 2
        if color_size is not None:
            check_color_size(color_size, voxel_size, out_channels)
        self.layers = upsampling_layers(3, latent_size, width, doublings, out_channels, mirrored, normalization)
        init_dcgan(self)
        last = self.layers[-2]
        assert isinstance(last, nn.ConvTranspose3d) and last.bias is not None
        nn.init.constant_(last.bias.data[:1], math.log(initial_occupancy / (1 - initial_occupancy)))
        filters: list[nn.Module] = [Mirror()] * mirrored + [BinomialFilter3d()] * smoothing
        if color_size is not None:
            filters.append(CoarseColor(voxel_size // color_size))
        for layer in filters:
            self.layers.insert(len(self.layers) - 1, layer)  # before the sigmoid
        to_channels_last(self, 3)  # 1.5 to 4 times faster on CPUs, and faster on tensor cores

    def forward(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B C D D D"]:
        """Return occupancy (channel 0) and colour in [0, 1], indexed ``[b, c, z, y, x]``."""
        return self.layers(z.view(*z.shape, 1, 1, 1))


def check_color_size(color_size: int, voxel_size: int, out_channels: int) -> None:
    """Check the option of :class:`VoxelGenerator`.

    Raises:
        InputError: naming the option to change.
    """
    check_number("color_size", color_size, at_least=1)
    if out_channels == 1:
        raise InputError("color_size is for generators with colour; set out_channels to 4 (RGB), or color_size to null")
    if voxel_size % color_size:
        raise InputError(f"color_size must divide voxel_size {voxel_size}, got {color_size}")


class CoarseColor(nn.Module):
    """Average all channels but the first over cells of a volume, and interpolate between the cells.

    Images of a single viewpoint do not determine the colour of each voxel: with a colour of its own for each, a generator
    can paint every side of a shape independently.
    """

    def __init__(self, cell: int) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Float[Tensor, "B C D D D"]) -> Float[Tensor, "B C D D D"]:
        """Return occupancy as it is, and the averaged colours."""
        colors = F.interpolate(F.avg_pool3d(x[:, 1:], self.cell), size=x.shape[2:], mode="trilinear")
        return torch.cat([x[:, :1], colors], 1)


class Mirror(nn.Module):
    """Extend the half x > 0 of a volume to the whole, symmetric about x = 0."""

    def forward(self, x: Float[Tensor, "B C D D W"]) -> Float[Tensor, "B C D D 2*W"]:
        """Return ``x`` next to its mirror image."""
        return torch.cat([x.flip(-1), x], -1)


class BinomialFilter3d(nn.Module):
    """Filter a volume with [1, 2, 1] / 4 along each axis; the border voxels are repeated."""

    def forward(self, x: Float[Tensor, "B C D H W"]) -> Float[Tensor, "B C D H W"]:
        """Return the filtered volume."""
        x = F.pad(x, [1] * 6, mode="replicate")
        for dim in (2, 3, 4):
            n = x.shape[dim] - 2
            x = 0.5 * x.narrow(dim, 1, n) + 0.25 * (x.narrow(dim, 0, n) + x.narrow(dim, 2, n))
        return x
