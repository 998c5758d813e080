"""Meshes of a batch laid out as one: every item projected and moved to its tile of a sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from renderers.cameras import Camera

MAX_SHEET = 4096  # pixels along a sheet's side: within what every OpenGL 3 driver allows


@dataclass(frozen=True)
class Surface:
    """One item of a batch as OpenGL draws it; arrays of float32 and int32.

    Args:
        vertices: ``(V, 3)``, world frame.
        faces: ``(F, 3)``.
        normals: ``(V, 3)`` unit normals, world frame.
        colors: ``(V, 3)`` in [0, 1], or None.
        uvs: ``(V, 2)``, (0, 0) at the texture's top left, or None.
        texture: ``(H, W, 3)`` bytes, or None.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"]
    colors: np.ndarray | None = None
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None


@dataclass(frozen=True)
class GBuffer:
    """What OpenGL draws of surfaces, before any light: all ``(B, ., S, S)`` on the CPU.

    ``color`` is multiplied by ``alpha``; ``normals`` are unit vectors in the camera frame, 0 where nothing is seen;
    ``depth`` is inf there. Both are None where only the image was asked for, ``color`` for surfaces without one.
    """

    alpha: Float[Tensor, "B 1 S S"]
    normals: Float[Tensor, "B 3 S S"] | None
    depth: Float[Tensor, "B 1 S S"] | None
    color: Float[Tensor, "B 3 S S"] | None

    @classmethod
    def cat(cls, parts: list[GBuffer]) -> GBuffer:
        """The batch that these parts make up."""
        names = "alpha", "normals", "depth", "color"
        return cls(
            *(None if getattr(parts[0], n) is None else torch.cat([getattr(p, n) for p in parts]) for n in names)
        )

    @classmethod
    def nothing(cls, count: int, size: int, colored: bool, geometry: bool = True) -> GBuffer:
        """Images of empty scenes."""
        zero = torch.zeros(count, 1, size, size)
        three = torch.zeros(count, 3, size, size)
        normals, depth = (three, torch.full_like(zero, math.inf)) if geometry else (None, None)
        return cls(zero, normals, depth, three if colored else None)


@dataclass(frozen=True)
class Layout:
    """``rows`` x ``columns`` tiles of ``size`` pixels, filled row by row from the top left."""

    count: int
    size: int

    @property
    def columns(self) -> int:
        return min(max(1, MAX_SHEET // self.size), math.ceil(math.sqrt(self.count)))

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    def split(self, sheet: Num[np.ndarray, "H W C"]) -> Num[Tensor, "B C S S"]:
        """Tiles of a sheet ``(rows S, columns S, C)`` whose first row is the top one."""
        channels, size = sheet.shape[-1], self.size
        tiles = torch.from_numpy(sheet).view(self.rows, size, self.columns, size, channels).permute(0, 2, 4, 1, 3)
        return tiles.reshape(self.rows * self.columns, channels, size, size)[: self.count]


def atlas_slices(surfaces: list[Surface], camera: Camera, size: int) -> list[slice]:
    """The batch in parts that fit a sheet each. An item that sticks out of its frame would spill over: it stands alone."""
    most = max(1, MAX_SHEET // size) ** 2
    parts, start = [], 0
    for i, surface in enumerate(surfaces):
        spills = not _fits(surface, camera[i : i + 1])
        if i > start and (spills or i - start == most):
            parts.append(slice(start, i))
            start = i
        if spills:
            parts.append(slice(i, i + 1))
            start = i + 1
    if start < len(surfaces):
        parts.append(slice(start, len(surfaces)))
    return parts


def _fits(surface: Surface, camera: Camera) -> bool:
    if len(surface.vertices) == 0:
        return True
    seen = camera.project(torch.from_numpy(surface.vertices)[None])[0]
    return bool(((seen[:, :2].abs() <= 1).all(-1) & (seen[:, 2] > 0)).all())


def project_to_atlas(
    surfaces: list[Surface], camera: Camera, layout: Layout
) -> tuple[list[Float[np.ndarray, "V 3"]], list[Float[np.ndarray, "V 3"]]]:
    """Positions of each surface under the sheet's one camera, and normals in the camera frame.

    Every vertex is projected here, exactly as :meth:`Camera.project` says, and moved to its tile. A perspective vertex
    (x, y, depth) of a tile shifted by s becomes ``((x + s) depth, (y + s) depth, -depth)``: OpenGL's own division by depth
    then makes the interpolation exact. The frame of the sheet is [-columns, columns] x [-rows, rows].
    """
    positions, normals = [], []
    for i, surface in enumerate(surfaces):
        one = camera[i : i + 1]
        row, column = divmod(i, layout.columns)
        x, y, depth = one.project(torch.from_numpy(surface.vertices)[None])[0].unbind(-1)
        x = x + 2 * column + 1 - layout.columns
        y = y + layout.rows - 2 * row - 1
        w = depth if camera.fov is not None else torch.ones_like(depth)
        positions.append(torch.stack([x * w, y * w, -depth], -1).numpy())
        normals.append(surface.normals @ one.rotation[0].numpy().T)
    return positions, normals


def depth_range(camera: Camera) -> tuple[float, float]:
    """Depths between which things are drawn: the ball of radius 2, in front of the camera."""
    return max(camera.distance - 2, 0.01), camera.distance + 2
