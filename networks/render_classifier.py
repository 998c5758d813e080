"""A compact classifier of renders, whose features are used for FID and KID."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import to_channels_last
from utils.errors import InputError, check_number

SPATIAL_LAYERS = 9  # three convolutions, each with batch norm and ReLU
SPATIAL_GROUPS = 4  # of the third convolution's channels


class RenderClassifier(nn.Module):
    """Five convolutions on 64² images, average pooling to ``num_features`` features, and a linear layer.

    Args:
        classes: names of the classes, in the order of the logits.
        width: channels of the first convolution.
        num_features: length of the pooled features.
        channels: of the network's input: 1 (colours are averaged) or 3 (grey images are repeated).

    Raises:
        InputError: if ``channels`` is neither 1 nor 3, or a number is less than 1.
    """

    image_size = 64

    def __init__(self, classes: list[str], width: int = 24, num_features: int = 128, channels: int = 1) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise InputError(f"channels must be 1 or 3, got {channels}")
        check_number("the number of classes", len(classes), at_least=1)
        check_number("width", width, at_least=1)
        check_number("num_features", num_features, at_least=1)
        self.classes, self.num_features, self.channels = list(classes), num_features, channels
        self.sizes = {"width": width, "num_features": num_features, "channels": channels}
        sizes = [channels, width, 2 * width, 4 * width, 4 * width, num_features]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            layers += [nn.Conv2d(before, after, 3, 2 if i < 4 else 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(num_features, len(classes))
        to_channels_last(self)

    @property
    def num_spatial_features(self) -> int:
        """The number of spatial features, 256."""
        return SPATIAL_GROUPS * 8**2

    def pooled_and_spatial(self, image: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B S"]]:
        """Return features of grey or RGB images in [0, 1], pooled and spatial. Images are resized to 64² with antialiasing.

        Pooled features are the mean over the last 4² pixels. Spatial features are sums over four groups of channels of the
        third convolution, at each of its 8² pixels, divided by the root of the group's size (a projection onto four unit
        vectors). Sums of many channels depend less on the weights than single channels, and less on loose voxels.
        """
        image = image.mean(1, keepdim=True) if self.channels == 1 else image.expand(-1, 3, -1, -1)
        if image.shape[-1] != self.image_size or image.shape[-2] != self.image_size:
            image = F.interpolate(image, (self.image_size,) * 2, mode="bilinear", antialias=True)
        x = self.layers[:SPATIAL_LAYERS](image * 2 - 1)
        groups = x.unflatten(1, (SPATIAL_GROUPS, -1))
        spatial = groups.sum(2) / groups.shape[2] ** 0.5
        return self.layers[SPATIAL_LAYERS:](x).mean((2, 3)), spatial.flatten(1)

    def features(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return pooled features of grey or RGB images in [0, 1]."""
        return self.pooled_and_spatial(image)[0]

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits."""
        return self.head(self.features(image))
