"""A batch of meshes in one image: each item is projected on the CPU and moved to its tile of an atlas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from renderers.cameras import Camera

MAX_ATLAS = 4096  # side of an atlas in pixels; every OpenGL 3 driver supports it


@dataclass(frozen=True)
class Surface:
    """One mesh of a batch, as arrays of float32 and int32.

    Args:
        vertices: ``(V, 3)``, world frame.
        faces: ``(F, 3)``.
        normals: ``(V, 3)`` unit normals, world frame.
        colors: ``(V, 3)`` in [0, 1], or None.
        uvs: ``(V, 2)``, (0, 0) at the texture's top left; required with a texture.
        texture: ``(H, W, 3)`` bytes, or None.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"]
    colors: np.ndarray | None = None
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None

    @property
    def colored(self) -> bool:
        return self.colors is not None or self.texture is not None


@dataclass(frozen=True)
class GBuffer:
    """Unlit output of OpenGL: tensors ``(B, ., S, S)`` on the CPU.

    ``color`` is premultiplied by ``alpha``; it is None for surfaces without colours. ``normals`` are unit vectors in the
    camera frame, 0 on the background; ``depth`` is inf there. Both are None if geometry was not requested.
    """

    alpha: Float[Tensor, "B 1 S S"]
    normals: Float[Tensor, "B 3 S S"] | None
    depth: Float[Tensor, "B 1 S S"] | None
    color: Float[Tensor, "B 3 S S"] | None

    @classmethod
    def cat(cls, parts: list[GBuffer]) -> GBuffer:
        """Concatenate parts of a batch."""

        def join(name: str) -> Any:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return cls(join("alpha"), join("normals"), join("depth"), join("color"))

    @classmethod
    def empty(cls, count: int, size: int, colored: bool, geometry: bool = True) -> GBuffer:
        """Return the G-buffer of empty scenes."""
        zero = torch.zeros(count, 1, size, size)
        vectors = torch.zeros(count, 3, size, size)
        normals, depth = (vectors, torch.full_like(zero, math.inf)) if geometry else (None, None)
        return cls(zero, normals, depth, vectors if colored else None)


@dataclass(frozen=True)
class Layout:
    """Tiles of an atlas: ``rows`` x ``columns`` tiles of ``size`` pixels, filled row by row from the top left."""

    count: int
    size: int

    @property
    def columns(self) -> int:
        return min(max(1, MAX_ATLAS // self.size), math.ceil(math.sqrt(self.count)))

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    def split(self, atlas: Num[np.ndarray, "H W C"]) -> Num[Tensor, "B C S S"]:
        """Split an atlas ``(rows S, columns S, C)``, top row first, into its tiles."""
        channels, size = atlas.shape[-1], self.size
        # torch refuses negative strides, which a flipped atlas of one row keeps, as numpy takes it for contiguous.
        flat = torch.from_numpy(atlas.reshape(-1))
        tiles = flat.view(self.rows, size, self.columns, size, channels).permute(0, 2, 4, 1, 3)
        return tiles.reshape(self.rows * self.columns, channels, size, size)[: self.count]


def atlas_capacity(size: int) -> int:
    """Return the number of tiles of ``size`` pixels that fit one atlas; at least 1."""
    return max(1, MAX_ATLAS // size) ** 2


def atlas_slices(surfaces: list[Surface], camera: Camera, size: int) -> list[slice]:
    """Split a batch into slices that fit one atlas each, for a backend that cannot clip at tiles.

    An item that extends beyond its frame would cover other tiles, so it gets a separate atlas.
    """
    slices, start = [], 0
    for i, surface in enumerate(surfaces):
        oversized = not _in_frame(surface, camera[i : i + 1])
        if i > start and (oversized or i - start == atlas_capacity(size)):
            slices.append(slice(start, i))
            start = i
        if oversized:
            slices.append(slice(i, i + 1))
            start = i + 1
    if start < len(surfaces):
        slices.append(slice(start, len(surfaces)))
    return slices


def _in_frame(surface: Surface, camera: Camera) -> bool:
    if len(surface.vertices) == 0:
        return True
    points = camera.project(torch.from_numpy(surface.vertices)[None])[0]
    return bool(((points[:, :2].abs() <= 1).all(-1) & (points[:, 2] > 0)).all())


def project_to_atlas(
    surfaces: list[Surface], camera: Camera, layout: Layout
) -> tuple[list[Float[np.ndarray, "V 3"]], list[Float[np.ndarray, "V 3"]]]:
    """Return each surface's vertices in the frame of the atlas' camera, and its normals in its own camera's frame.

    Vertices are projected by :meth:`Camera.project` and moved to their tile. A perspective vertex (x, y, depth) in a tile
    shifted by s becomes ``((x + s) depth, (y + s) depth, -depth)``: OpenGL's division by depth then interpolates
    perspective-correctly. The frame of the atlas is [-columns, columns] x [-rows, rows].
    """
    positions, normals = [], []
    for i, surface in enumerate(surfaces):
        view = camera[i : i + 1]
        row, column = divmod(i, layout.columns)
        x, y, depth = view.project(torch.from_numpy(surface.vertices)[None])[0].unbind(-1)
        x = x + 2 * column + 1 - layout.columns
        y = y + layout.rows - 2 * row - 1
        w = depth if camera.fov is not None else torch.ones_like(depth)
        positions.append(torch.stack([x * w, y * w, -depth], -1).numpy())
        normals.append(surface.normals @ view.rotation[0].numpy().T)
    return positions, normals


def depth_range(camera: Camera) -> tuple[float, float]:
    """Return the near and far clipping depths: the ball of radius 2, as far as it is in front of the camera."""
    return max(camera.distance - 2, 0.01), camera.distance + 2
