"""The volume renderers in plain torch: the specification of the kernels, and the backend "torch"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from renderers.cameras import Camera
from utils.errors import check_choice


@dataclass(frozen=True)
class Rays:
    """One ray through the centre of each of P² pixels, with samples at S depths, without the cameras' rotations.

    In the camera frame, sample k of the pixel at (x, y), both in [-1, 1], is at ``(x s, y s, -a_k)`` with
    ``a_k = (2 k + 1) / S - 1``; ``s = half_extent (distance + a_k)`` in perspective, and 1 otherwise.

    Args:
        image_size: P.
        samples: S.
        perspective: whether the camera is perspective or orthographic.
        half_extent: of the image at depth 1.
        distance: of the camera from the origin, in world units.
    """

    image_size: int
    samples: int
    perspective: bool
    half_extent: float
    distance: float

    @classmethod
    def of(cls, camera: Camera, image_size: int, samples: int) -> Rays:
        return cls(image_size, samples, camera.fov is not None, camera.half_extent, camera.distance)

    def points(self, rotation: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B S P P 3"]:
        """Return the world positions of all samples, ``[b, depth, row, column]``; depth 0 nearest, row 0 at the top."""
        x = (torch.arange(self.image_size, device=rotation.device).to(rotation) + 0.5) / self.image_size * 2 - 1
        a = (torch.arange(self.samples, device=rotation.device).to(rotation) + 0.5) / self.samples * 2 - 1
        scale = self.half_extent * (self.distance + a) if self.perspective else torch.ones_like(a)
        plane = torch.stack(torch.meshgrid(-x, x, indexing="ij")[::-1], -1)  # (P, P, 2): x right, y up
        plane = scale.view(-1, 1, 1, 1) * plane
        depth = -a.view(-1, 1, 1, 1).expand(*plane.shape[:-1], 1)
        return torch.einsum("bij,srci->bsrcj", rotation, torch.cat([plane, depth], -1))


@dataclass(frozen=True)
class MarchSettings:
    """What :func:`march` computes along which rays.

    Args:
        rays: pixels and sample depths.
        law: how samples of occupancy become alpha.
        density: scales occupancy (absorption) or the sum of occupancy (visual hull).

    Raises:
        InputError: if the law is unknown.
    """

    rays: Rays
    law: Literal["absorption", "visual_hull"]
    density: float

    def __post_init__(self) -> None:
        check_choice("law", self.law, ("absorption", "visual_hull"))


def march(
    occupancy: Float[Tensor, "B 1 D D D"],
    color: Float[Tensor, "B C D D D"] | None,
    rotation: Float[Tensor, "B 3 3"],
    settings: MarchSettings,
) -> tuple[Float[Tensor, "B 1 P P"], Float[Tensor, "B K P P"]]:
    """Return alpha and the image on black: colour composited front to back, or alpha again without colour.

    ``v_i`` are the samples of occupancy along a ray, multiplied by ``density`` for absorption.

    - law "absorption": ``alpha = 1 - prod_i (1 - v_i)``, image ``sum_i c_i v_i prod_{j<i} (1 - v_j)``;
    - law "visual_hull": ``alpha = 1 - exp(-density sum_i v_i)``, without colour.
    """
    grid = 2 * settings.rays.points(rotation)  # grid_sample's coordinates are -1 and 1 at the volume's faces
    v = F.grid_sample(occupancy, grid, align_corners=False)
    if settings.law == "visual_hull":
        alpha = 1 - torch.exp(-settings.density * v.sum(2))
        return alpha, alpha
    v = settings.density * v
    alpha = 1 - (1 - v).prod(2)
    if color is None:
        return alpha, alpha
    c = F.grid_sample(color, grid, padding_mode="border", align_corners=False)
    return alpha, (c * _weights(v)).sum(2)


def march_surface(
    occupancy: Float[Tensor, "B 1 D D D"], rotation: Float[Tensor, "B 3 3"], settings: MarchSettings
) -> tuple[Float[Tensor, "B 1 P P"], Float[Tensor, "B 4 P P"]]:
    """Return alpha, and the sums of the gradient of occupancy (world x, y, z, per voxel) and of depth along each ray.

    The law is absorption, with the weights ``w_i = v_i prod_{j<i} (1 - v_j)``. The sums are ``sum_i w_i g_i``, where
    ``g_i`` is interpolated between the voxels' :func:`occupancy_gradient` as colour is, and ``sum_i w_i a_i``, where
    ``a_i`` is the depth of sample i behind the origin along the optical axis, in world units (:class:`Rays`).
    """
    rays = settings.rays
    grid = 2 * rays.points(rotation)
    v = settings.density * F.grid_sample(occupancy, grid, align_corners=False)
    g = F.grid_sample(occupancy_gradient(occupancy), grid, padding_mode="border", align_corners=False)
    depth = (torch.arange(rays.samples, device=v.device).to(v) + 0.5) / rays.samples * 2 - 1
    fields = torch.cat([g, depth.view(-1, 1, 1).expand_as(v)], 1)
    return 1 - (1 - v).prod(2), (fields * _weights(v)).sum(2)


def _weights(v: Float[Tensor, "B 1 S P P"]) -> Float[Tensor, "B 1 S P P"]:
    """Return the weight of each sample: its opacity times the transmittance up to it."""
    return v * torch.cat([torch.ones_like(v[:, :, :1]), (1 - v[:, :, :-1]).cumprod(2)], 2)


def occupancy_gradient(occupancy: Float[Tensor, "B 1 D D D"]) -> Float[Tensor, "B 3 D D D"]:
    """Return central differences of occupancy per voxel along world x, y and z; occupancy is 0 outside the grid."""
    padded = F.pad(occupancy, [1] * 6)
    inner = slice(1, -1)
    differences = [
        padded[:, :, inner, inner, 2:] - padded[:, :, inner, inner, :-2],
        padded[:, :, inner, 2:, inner] - padded[:, :, inner, :-2, inner],
        padded[:, :, 2:, inner, inner] - padded[:, :, :-2, inner, inner],
    ]
    return torch.cat(differences, 1) / 2
