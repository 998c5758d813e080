"""A compact classifier of renders, whose features are used for FID and KID."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import to_channels_last


class RenderClassifier(nn.Module):
    """Five convolutions on 64² grey images, average pooling to ``num_features`` features, and a linear layer.

    Args:
        classes: names of the classes, in the order of the logits.
        width: channels of the first convolution.
        num_features: length of the pooled features.
    """

    image_size = 64

    def __init__(self, classes: list[str], width: int = 24, num_features: int = 128) -> None:
        super().__init__()
        self.classes, self.num_features = list(classes), num_features
        self.sizes = {"width": width, "num_features": num_features}
        sizes = [1, width, 2 * width, 4 * width, 4 * width, num_features]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            layers += [nn.Conv2d(before, after, 3, 2 if i < 4 else 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(num_features, len(classes))
        to_channels_last(self)

    def features(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return pooled features of images in [0, 1]; they are converted to grey and resized to 64² with antialiasing."""
        image = image.mean(1, keepdim=True)
        if image.shape[-1] != self.image_size or image.shape[-2] != self.image_size:
            image = F.interpolate(image, (self.image_size,) * 2, mode="bilinear", antialias=True)
        return self.layers(image * 2 - 1).mean((2, 3))

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return logits."""
        return self.head(self.features(image))
