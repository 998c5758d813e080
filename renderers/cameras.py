"""Cameras that look at the origin, and distributions of viewpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from utils.errors import InputError, check_number
from utils.transfer import to_device

ORTHOGRAPHIC_DISTANCE = 2.0  # origin of the depth of orthographic cameras; their image does not depend on it


def check_fov(fov: float | None) -> None:
    """Raise InputError if a field of view in degrees is not between 0 and 180. None is an orthographic camera."""
    if fov is not None and not 0 < fov < 180:
        raise InputError(f"fov must be between 0 and 180 degrees, got {fov}")


@dataclass(frozen=True)
class Camera:
    """A batch of cameras on orbits around the origin that look at it, y up.

    Camera frame: x right, y up, z toward the viewer (as in OpenGL). At azimuth 0 and elevation 0 its axes are those of the
    world frame and the camera looks along -z. Positive azimuth moves the camera toward +x, positive elevation toward +y.

    An orthographic camera (``fov=None``) shows the square [-1, 1]². A perspective camera is at the distance at which the
    unit ball touches all four sides of the frame: ``sin(fov / 2) = 1 / distance``.

    Args:
        azimuth: ``(B,)`` degrees.
        elevation: ``(B,)`` degrees.
        fov: full horizontal and vertical field of view in degrees, or None for an orthographic camera.

    Raises:
        ValueError: if azimuth and elevation do not have the same shape ``(B,)``, or fov is out of range.
    """

    azimuth: Tensor
    elevation: Tensor
    fov: float | None = None

    def __post_init__(self) -> None:
        if self.azimuth.dim() != 1 or self.azimuth.shape != self.elevation.shape:
            raise ValueError(
                f"azimuth and elevation must have the same shape (B,), got {tuple(self.azimuth.shape)} "
                f"and {tuple(self.elevation.shape)}"
            )
        check_fov(self.fov)

    @classmethod
    def orbit(
        cls,
        azimuth: float | list[float] | Tensor,
        elevation: float | list[float] | Tensor,
        fov: float | None = None,
        device: torch.device | str | None = None,
    ) -> Camera:
        """Create cameras from degrees as numbers, lists or tensors. Azimuth and elevation broadcast to ``(B,)``."""
        angles = [torch.atleast_1d(torch.as_tensor(a, dtype=torch.get_default_dtype())) for a in (azimuth, elevation)]
        az, el = torch.broadcast_tensors(*angles)
        return cls(az.to(device), el.to(device), fov)

    def __len__(self) -> int:
        return self.azimuth.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Camera:
        return Camera(self.azimuth[index], self.elevation[index], self.fov)

    @property
    def device(self) -> torch.device:
        return self.azimuth.device

    def is_finite(self) -> Bool[Tensor, ""]:
        """Return whether all angles are finite, as a tensor on their device."""
        return (self.azimuth.isfinite() & self.elevation.isfinite()).all()

    def to(self, device: torch.device | str) -> Camera:
        return Camera(to_device(self.azimuth, device), to_device(self.elevation, device), self.fov)

    @property
    def distance(self) -> float:
        """Distance from the camera to the origin, in world units."""
        return ORTHOGRAPHIC_DISTANCE if self.fov is None else 1 / math.sin(math.radians(self.fov) / 2)

    @property
    def half_extent(self) -> float:
        """Half the frame's side in world units: at depth 1 (perspective), or at any depth (orthographic)."""
        return 1.0 if self.fov is None else math.tan(math.radians(self.fov) / 2)

    @property
    def rotation(self) -> Float[Tensor, "B 3 3"]:
        """Rotation from world to camera: ``x_camera = rotation @ x_world - (0, 0, distance)``."""
        az, el = torch.deg2rad(self.azimuth), torch.deg2rad(self.elevation)
        ca, sa, ce, se = az.cos(), az.sin(), el.cos(), el.sin()
        zero = torch.zeros_like(ca)
        rows = (
            (ca, zero, -sa),  # right
            (-sa * se, ce, -ca * se),  # up
            (sa * ce, se, ca * ce),  # toward the viewer
        )
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def project(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Project world points to (x, y, depth).

        x (right) and y (up) are in [-1, 1] inside the frame. Depth is the distance from the camera along its optical
        axis in world units, positive in front of the camera.
        """
        x, y, z = torch.einsum("bij,bnj->bni", self.rotation.to(points), points).unbind(-1)
        depth = self.distance - z
        scale = self.half_extent * (depth if self.fov is not None else torch.ones_like(depth))
        return torch.stack([x / scale, y / scale, depth], -1)

    def face_viewer(self, normals: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """Reverse the normals of an image, in the camera frame, that point away from the viewer."""
        size = normals.shape[-1]
        axis = (torch.arange(size, device=normals.device, dtype=normals.dtype) + 0.5) * 2 / size - 1
        away = self._points_away(normals[:, :1], normals[:, 1:2], normals[:, 2:], axis, -axis[:, None])
        return torch.where(away, -normals, normals)

    def face_viewer_at(
        self, normals: Float[Tensor, "N 3"], pixel: Int[Tensor, " N"], size: int
    ) -> Float[Tensor, "N 3"]:
        """Reverse normals that point away from the viewer, each seen at a pixel ``(b * size + row) * size + column``."""
        x, y = (((i + 0.5) * 2 / size - 1).to(normals) for i in (pixel % size, pixel // size % size))
        nx, ny, nz = normals.unbind(-1)
        away = self._points_away(nx, ny, nz, x, -y)
        return torch.where(away[:, None], -normals, normals)

    def _points_away(self, nx: Tensor, ny: Tensor, nz: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if self.fov is None:
            return nz < 0
        return nz - (nx * x + ny * y) * self.half_extent < 0

    def unproject(self, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 3"]:
        """Map (x, y, depth) to world points; the inverse of :meth:`project`."""
        x, y, depth = points.unbind(-1)
        scale = self.half_extent * (depth if self.fov is not None else torch.ones_like(depth))
        camera = torch.stack([x * scale, y * scale, self.distance - depth], -1)
        return torch.einsum("bji,bnj->bni", self.rotation.to(points), camera)


@dataclass(frozen=True)
class ViewDistribution:
    """Uniform distribution of azimuth and elevation.

    Args:
        azimuth: range in degrees; (0, 360) is a full turn.
        elevation: range in degrees; (-30, 60) for chairs and (15, 60) for couches and bathtubs in IG-GAN, supplement B.2.
        fov: see :class:`Camera`.

    Raises:
        InputError: if an angle is not finite, or fov is out of range.
    """

    azimuth: tuple[float, float] = (0.0, 360.0)
    elevation: tuple[float, float] = (-30.0, 60.0)
    fov: float | None = None

    def __post_init__(self) -> None:
        check_fov(self.fov)
        for name, angles in (("azimuth", self.azimuth), ("elevation", self.elevation)):
            for angle in angles:
                check_number(name, angle)

    @property
    def symmetric(self) -> bool:
        """Whether azimuth a is as frequent as -a: a mirrored image then has a viewpoint of this distribution."""
        first, last = self.azimuth
        return (first + last) % 360 == 0 or ((last - first) % 360 == 0 and last != first)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Camera:
        """Sample ``n`` cameras on the generator's device. Equal generator states give equal cameras on every machine."""
        device = generator.device if generator is not None else None
        u = torch.rand(2, n, generator=generator, device=device)
        (a0, a1), (e0, e1) = self.azimuth, self.elevation
        return Camera(a0 + (a1 - a0) * u[0], e0 + (e1 - e0) * u[1], self.fov)
