"""Scenes: voxel grids and triangle meshes.

World frame: right-handed, x right, y up, z toward the viewer at azimuth 0. Objects are inside the unit ball.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TOLERANCE = 1e-3  # by which occupancy and colour may be outside [0, 1]


def check_range(name: str, values: Tensor) -> None:
    """Raise ValueError if values are outside [0, 1], with a tolerance of 1e-3, or NaN."""
    if values.numel() and values.dtype != torch.bool:
        low, high = (float(x) for x in values.detach().aminmax())
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also true for NaN
            raise ValueError(f"{name} {tuple(values.shape)} must be in [0, 1], got values from {low:.4g} to {high:.4g}")


def in_range(values: Tensor) -> Bool[Tensor, ""]:
    """Return what :func:`check_range` checks as a tensor on the device of ``values``, without waiting for the device."""
    if values.dtype == torch.bool or not values.numel():
        return torch.ones((), dtype=torch.bool, device=values.device)
    low, high = values.detach().aminmax()
    return (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)


@dataclass(frozen=True)
class VoxelGrid:
    """Occupancy, and optionally colour, on a cubic grid that fills the cube [-1/2, 1/2]³ of the world.

    The centre of voxel ``[b, c, k, j, i]`` is at ``((i, j, k) + 1/2) / D - 1/2`` in (x, y, z). The cube's corners are
    sqrt(3)/2 from the origin, so the cube is inside the unit ball, and inside the image from every viewpoint.

    Args:
        occupancy: ``(B, 1, D, D, D)`` in [0, 1], indexed ``[b, c, z, y, x]``.
        color: ``(B, C, D, D, D)`` in [0, 1], or None.

    Raises:
        ValueError: for any other shape.
    """

    occupancy: Tensor
    color: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.occupancy.shape)
        if len(shape) != 5 or shape[1] != 1 or len(set(shape[2:])) != 1:
            raise ValueError(f"occupancy must have shape (B, 1, D, D, D), got {shape}")
        if self.color is not None and (
            self.color.dim() != 5 or self.color.shape[0] != shape[0] or self.color.shape[2:] != self.occupancy.shape[2:]
        ):
            raise ValueError(
                f"color must have shape (B, C, D, D, D) with the B and D of occupancy {shape}, got "
                f"{tuple(self.color.shape)}"
            )

    def __len__(self) -> int:
        return self.occupancy.shape[0]

    @property
    def size(self) -> int:
        """Number of voxels along an edge, D."""
        return self.occupancy.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.occupancy.device

    def to(self, device: torch.device | str) -> VoxelGrid:
        return VoxelGrid(self.occupancy.to(device), None if self.color is None else self.color.to(device))

    def check(self, values: bool = True) -> None:
        """Check dtypes, devices and values. Renderers call it before rendering.

        Args:
            values: whether to check the values, which takes time.

        Raises:
            TypeError: a dtype that is neither floating point nor bool.
            ValueError: values outside [0, 1], see :func:`check_range`; tensors on different devices.
        """
        for name, tensor in (("occupancy", self.occupancy), ("color", self.color)):
            if tensor is None:
                continue
            if tensor.dtype != torch.bool and not tensor.is_floating_point():
                raise TypeError(f"{name} must be floating point or bool, got {tensor.dtype}")
            if tensor.device != self.device:
                raise ValueError(f"{name} must be on the device of occupancy, {self.device}, got {tensor.device}")
            if values:
                check_range(name, tensor)

    def is_valid(self) -> Bool[Tensor, ""]:
        """Return whether the values are in [0, 1], on the device of the grids."""
        valid = in_range(self.occupancy)
        return valid if self.color is None else valid & in_range(self.color)

    def binarize(self, threshold: float | Float[Tensor, " B"] = 0.5) -> VoxelGrid:
        """Return the solid {occupancy > threshold}, detached. The threshold is a number, or one per sample."""
        if isinstance(threshold, Tensor):
            threshold = threshold.view(-1, 1, 1, 1, 1)
        solid = (self.occupancy.detach() > threshold).to(self.occupancy.dtype)
        return VoxelGrid(solid, None if self.color is None else self.color.detach())


@dataclass(frozen=True)
class TriangleMesh:
    """A batch of meshes that share faces and UVs.

    Args:
        vertices: ``(B, V, 3)`` in the world frame.
        faces: ``(F, 3)`` integer vertex indices, counter-clockwise seen from outside.
        uvs: ``(V, 2)`` texture coordinates in [0, 1], (0, 0) at the texture's top left, or None.
        texture: ``(B, C, H, W)`` in [0, 1], or None.
        normals: ``(B, V, 3)`` unit vertex normals in the world frame, or None.
        colors: ``(B, V, C)`` colours (or any other attributes) of the vertices, multiplied with a texture, or None.

    Raises:
        ValueError: for any other shape.
        TypeError: if faces are not integers.
    """

    vertices: Tensor
    faces: Tensor
    uvs: Tensor | None = None
    texture: Tensor | None = None
    normals: Tensor | None = None
    colors: Tensor | None = None

    def __post_init__(self) -> None:
        if self.vertices.dim() != 3 or self.vertices.shape[-1] != 3:
            raise ValueError(f"vertices must have shape (B, V, 3), got {tuple(self.vertices.shape)}")
        if self.faces.dim() != 2 or self.faces.shape[-1] != 3:
            raise ValueError(f"faces must have shape (F, 3), got {tuple(self.faces.shape)}")
        if self.faces.is_floating_point():
            raise TypeError(f"faces must be integers, got {self.faces.dtype}")
        batch, count, _ = self.vertices.shape
        if self.uvs is not None and tuple(self.uvs.shape) != (count, 2):
            raise ValueError(f"uvs must have shape (V, 2) = ({count}, 2), got {tuple(self.uvs.shape)}")
        if self.texture is not None and (self.texture.dim() != 4 or self.texture.shape[0] != batch):
            raise ValueError(f"texture must have shape (B, C, H, W) with B = {batch}, got {tuple(self.texture.shape)}")
        if self.normals is not None and self.normals.shape != self.vertices.shape:
            raise ValueError(
                f"normals must have the shape of vertices, {tuple(self.vertices.shape)}, got {tuple(self.normals.shape)}"
            )
        if self.colors is not None and (self.colors.dim() != 3 or tuple(self.colors.shape[:2]) != (batch, count)):
            raise ValueError(
                f"colors must have shape (B, V, C) = ({batch}, {count}, C), got {tuple(self.colors.shape)}"
            )

    def __len__(self) -> int:
        return self.vertices.shape[0]

    @property
    def device(self) -> torch.device:
        return self.vertices.device

    def to(self, device: torch.device | str) -> TriangleMesh:
        uvs, texture, normals, colors = (
            None if value is None else value.to(device) for value in (self.uvs, self.texture, self.normals, self.colors)
        )
        return TriangleMesh(self.vertices.to(device), self.faces.to(device), uvs, texture, normals, colors)

    def is_valid(self) -> Bool[Tensor, ""]:
        """Return whether the vertices are finite, on their device."""
        return self.vertices.detach().isfinite().all()
