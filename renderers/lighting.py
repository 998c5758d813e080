"""Analytic diffuse shading with ambient and directional lights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from utils.errors import InputError, check_number


@dataclass(frozen=True)
class Lighting:
    """Directional ("beam") lights that are fixed to the camera, on a grey diffuse surface.

    The lights move with the camera because the input of the neural proxy is only the rotated grid: the image must be a
    function of geometry in the camera frame. The paper uses two beam lights but does not give directions or intensities
    (IG-GAN, supplement B.2). The defaults are our choice: a strong light from the upper left, a weak one from the lower
    right.

    Args:
        ambient: intensity of the ambient light.
        directions: vectors from the surface toward each light, in the camera frame, of any length.
        intensities: one per light, including the surface's albedo.

    Raises:
        InputError: if directions and intensities differ in number, an intensity is negative, or a direction has no length.
    """

    ambient: float = 0.1
    directions: tuple[tuple[float, float, float], ...] = ((-1.0, 1.0, 2.0), (2.0, -0.5, 2.0))
    intensities: tuple[float, ...] = (0.6, 0.3)

    def __post_init__(self) -> None:
        if len(self.directions) != len(self.intensities):
            raise InputError(
                f"directions and intensities must have the same length, got {len(self.directions)} and "
                f"{len(self.intensities)}"
            )
        check_number("ambient", self.ambient, at_least=0)
        for direction, intensity in zip(self.directions, self.intensities, strict=True):
            check_number(f"the length of the light's direction {list(direction)}", math.hypot(*direction), above=0)
            check_number("intensities", intensity, at_least=0)

    def shade(self, normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Return ``min(1, ambient + sum_l intensity_l max(0, n·l))`` for unit normals in the camera frame."""
        light = torch.full_like(normals[:, :1], self.ambient)
        for direction, intensity in zip(self.directions, self.intensities, strict=True):
            length = math.hypot(*direction)
            cosine = sum(normals[:, i] * (d / length) for i, d in enumerate(direction))
            light = light + intensity * torch.as_tensor(cosine).clamp(min=0)[:, None]
        return light.clamp(max=1)
