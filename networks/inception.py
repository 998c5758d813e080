"""InceptionV3 as used for FID, for the published ImageNet weights and for weights trained on renders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import to_channels_last
from utils.errors import InputError, check_number

SPATIAL_CHANNELS = 7
Conv = tuple[int, int | tuple[int, int]]  # output channels, kernel (height, width)
Chain = list[Conv | tuple[Conv, Conv]]  # a pair is two convolutions of the same input


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, conv: Conv, stride: int = 1, padding: int | tuple[int, int] = 0) -> None:
        super().__init__()
        out_channels, kernel = conv
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches of convolutions and one of pooling, with concatenated outputs.

    A branch is a chain of convolutions, whose last link may be a pair on the same input. Names follow the published weights:
    ``branch`` for a single convolution, otherwise ``branch_1``, ``branch_2``, …, and ``branch_3a``, ``branch_3b`` for a
    pair.

    Args:
        in_channels: input channels.
        branches: chains by name, in the order of the output's channels.
        pool: ``mean`` (without padding) or ``max`` over 3², then a 1² convolution. With ``pool_channels=0`` the maximum has
            stride 2 and there is no convolution, and the whole block halves the image.
        pool_channels: channels of the convolution after the pooling.
    """

    def __init__(self, in_channels: int, branches: dict[str, Chain], pool: str, pool_channels: int) -> None:
        super().__init__()
        self.pool, self.halves = pool, pool_channels == 0
        self.chains: list[list[list[str]]] = []
        self.channels = pool_channels or in_channels
        for name, chain in branches.items():
            names: list[list[str]] = []
            channels = in_channels
            for i, link in enumerate(chain):
                pair = [link] if isinstance(link[0], int) else list(link)
                label = f"{name}_{i + 1}" if len(chain) > 1 else name
                names.append([label] if len(pair) == 1 else [f"{label}a", f"{label}b"])
                for key, conv in zip(names[-1], pair, strict=True):
                    halves = self.halves and i == len(chain) - 1
                    height, width = conv[1] if isinstance(conv[1], tuple) else (conv[1], conv[1])
                    padding = (0, 0) if halves else (height // 2, width // 2)
                    self.add_module(key, ConvNorm(channels, conv, 2 if halves else 1, padding))
                channels = sum(conv[0] for conv in pair)
            self.chains.append(names)
            self.channels += channels
        if pool_channels:
            self.branch_pool = ConvNorm(in_channels, (pool_channels, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        outputs = []
        for chain in self.chains:
            y = x
            for names in chain:
                ends = [self.get_submodule(name)(y) for name in names]
                y = torch.cat(ends, 1) if len(ends) > 1 else ends[0]
            outputs.append(y)
        if self.halves:
            return torch.cat([*outputs, F.max_pool2d(x, 3, 2)], 1)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*outputs, self.branch_pool(pooled)], 1)


def _block_35(in_channels: int, pool_channels: int) -> Mixed:
    """Build a block of the 35² stage."""
    branches: dict[str, Chain] = {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
    }
    return Mixed(in_channels, branches, "mean", pool_channels)


def _block_17(inside: int) -> Mixed:
    """Build a block of the 17² stage."""
    wide: Conv = (inside, (1, 7))
    high: Conv = (inside, (7, 1))
    branches: dict[str, Chain] = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(inside, 1), wide, (192, (7, 1))],
        "branch7x7dbl": [(inside, 1), high, wide, high, (192, (1, 7))],
    }
    return Mixed(768, branches, "mean", 192)


def _block_8(in_channels: int, pool: str) -> Mixed:
    """Build a block of the 8² stage."""
    pair: tuple[Conv, Conv] = ((384, (1, 3)), (384, (3, 1)))
    branches: dict[str, Chain] = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), pair],
        "branch3x3dbl": [(448, 1), (384, 3), pair],
    }
    return Mixed(in_channels, branches, pool, 192)


class InceptionV3(nn.Module):
    """InceptionV3 (1512.00567) with the pooling of TensorFlow's 2015 graph, which published FIDs are based on.

    It differs from common ports in three ways: average pooling excludes padding, the last block uses max pooling, and the
    published weights have 1008 classes. Names and shapes of the state dict are those of
    ``pt_inception-2015-12-05-6726825d.pth``. There is no dropout before the last layer, because a resumed run could not
    repeat its random values.

    Args:
        classes: names of the classes, in the order of the logits.
        channels: of the network's input: 3 (grey images are repeated) or 1 (colours are averaged).
        image_size: images are resized to this square, at least 75; 299 is the published size.

    Raises:
        InputError: if ``channels`` or ``image_size`` is not supported, or there are no classes.
    """

    num_features = 2048

    def __init__(self, classes: list[str], channels: int = 1, image_size: int = 299) -> None:
        super().__init__()
        if channels not in (1, 3) or image_size < 75:
            raise InputError(f"channels must be 1 or 3 and image_size at least 75, got {channels} and {image_size}")
        check_number("the number of classes", len(classes), at_least=1)
        self.classes, self.channels, self.image_size = list(classes), channels, image_size
        self.sizes = {"channels": channels, "image_size": image_size}
        self.Conv2d_1a_3x3 = ConvNorm(channels, (32, 3), 2)
        self.Conv2d_2a_3x3 = ConvNorm(32, (32, 3))
        self.Conv2d_2b_3x3 = ConvNorm(32, (64, 3), padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, (80, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, (192, 3))
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_35(192, 32), _block_35(256, 64), _block_35(288, 64)
        self.Mixed_6a = Mixed(288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}, "max", 0)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = map(_block_17, (128, 160, 160, 192))
        chain: Chain = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
        self.Mixed_7a = Mixed(768, {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": chain}, "max", 0)
        self.Mixed_7b, self.Mixed_7c = _block_8(1280, "mean"), _block_8(2048, "max")
        self.fc = nn.Linear(self.num_features, len(classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        to_channels_last(self)

    @property
    def num_spatial_features(self) -> int:
        """The number of spatial features: 7 · 17² = 2023 at the published size."""
        size = (self.image_size - 3) // 2 - 1  # after Conv2d_2b_3x3
        for border in (2, 0, 0):  # Conv2d_4a_3x3 and two poolings, of which the last is Mixed_6a
            size = (size - 3) // 2 + 1 - border
        return SPATIAL_CHANNELS * size**2

    def pooled_and_spatial(
        self, image: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B 2048"], Float[Tensor, "B S"]]:
        """Return features of images in [0, 1] of any size, pooled and spatial.

        Pooled features are the mean over the last 8² pixels ("pool3"). Spatial features are the first 7 channels of
        ``mixed_6/conv``, the 1² convolution of the third block at 17² (sFID; Nash et al., 2103.03841, section 5.1).
        """
        if image.shape[1] != self.channels:
            image = image.mean(1, keepdim=True).expand(-1, self.channels, -1, -1)
        x = (255 * resize_tf1(image, self.image_size) - 128) / 128  # the original graph's scaling: [-1, 127/128]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
            if name == "Mixed_6d":
                spatial = x[:, :SPATIAL_CHANNELS].flatten(1)  # the first branch is the 1² convolution
        return x.mean((2, 3)), spatial

    def features(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2048"]:
        """Return pooled features of images in [0, 1] of any size."""
        return self.pooled_and_spatial(image)[0]

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits."""
        return self.fc(self.features(image))


def resize_tf1(image: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C size size"]:
    """Resize bilinearly to a square like TensorFlow 1: without aligned corners or pixel centres, and without antialiasing.

    Pixel i of the result is at position ``i n / size`` of a side's n pixels, measured from the first pixel's centre; the
    last pixel is repeated beyond its centre.
    """
    for dim in (2, 3):
        n = image.shape[dim]
        if n == size:
            continue
        position = torch.arange(size, device=image.device) * n
        low = position // size
        weight = ((position % size).to(image.dtype) / size).view([-1 if d == dim else 1 for d in range(4)])
        near, far = (image.index_select(dim, index) for index in (low, (low + 1).clamp(max=n - 1)))
        image = near + (far - near) * weight
    return image
