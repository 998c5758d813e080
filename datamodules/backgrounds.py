"""Procedural background images: gradients, blurred noise, stripes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

KINDS = ("gradient", "noise", "stripes")


def background(rng: np.random.Generator, size: int) -> Float[Tensor, "3 S S"]:
    """Return a random image in [0, 1]: a blend of two colours by a gradient, blurred noise or soft stripes.

    The same generator state gives the same image at every size, up to sampling.
    """
    kind = KINDS[rng.integers(len(KINDS))]
    low, high = (torch.from_numpy(rng.uniform(0, 1, 3).astype(np.float32)).view(3, 1, 1) for _ in range(2))
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = rng.uniform(0, 2 * math.pi)
    along = math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)
    if kind == "gradient":
        weight = (along / math.sqrt(2) + 0.5)[None]
    elif kind == "stripes":
        weight = 0.5 + 0.5 * torch.tanh(2 * torch.sin(2 * math.pi * rng.uniform(2, 6) * along + angle))[None]
    else:
        cells = int(rng.integers(3, 9))
        noise = torch.from_numpy(rng.uniform(0, 1, (1, 3, cells, cells)).astype(np.float32))
        cloud = F.interpolate(noise, (size, size), mode="bicubic", align_corners=True)[0].clamp(0, 1)
        weight = cloud if rng.random() < 0.5 else cloud[:1]
    shade = 1 + rng.uniform(-0.4, 0.4) * (2 * y - 1)
    return ((low + (high - low) * weight) * shade).clamp(0, 1)
