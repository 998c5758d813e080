"""Analytic shading: a little ambient light and clamped n·l for each beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from utils.errors import InputError


@dataclass(frozen=True)
class Lighting:
    """Directional ("beam") lights that are fixed to the camera, on a grey matte surface.

    The lights turn with the camera because the neural proxy sees the rotated grid alone: its image may depend on nothing
    but geometry in the camera frame. The paper gives two beam lights without directions or strengths (supplement B.2);
    these are ours: a strong one from the upper left, a weak one from the lower right.

    Args:
        ambient: light from everywhere.
        directions: vectors from the surface toward each light, camera frame; any length.
        intensities: one a light; the surface's albedo is in it.
    """

    ambient: float = 0.1
    directions: tuple[tuple[float, float, float], ...] = ((-1.0, 1.0, 2.0), (2.0, -0.5, 2.0))
    intensities: tuple[float, ...] = (0.6, 0.3)

    def __post_init__(self) -> None:
        if len(self.directions) != len(self.intensities):
            raise InputError(
                f"{len(self.directions)} light directions need as many intensities, got {self.intensities}"
            )

    def shade(self, normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """``min(1, ambient + sum_l intensity_l max(0, n·l))`` for unit normals in the camera frame."""
        light = torch.full_like(normals[:, :1], self.ambient)
        for direction, intensity in zip(self.directions, self.intensities, strict=True):
            length = math.hypot(*direction)
            cosine = sum(normals[:, i] * (d / length) for i, d in enumerate(direction))
            light = light + intensity * torch.as_tensor(cosine).clamp(min=0)[:, None]
        return light.clamp(max=1)
