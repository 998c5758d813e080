"""Solids with an analytic inside, and their union on a voxel grid.

Procedural shapes are lists of these. Coordinates are (x, y, z), y up, in any unit: :func:`rasterize` fits the whole to
the grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

Vector = tuple[float, float, float]
INF = float("inf")
# A section at least this many voxels wide (plus its drift from layer to layer) holds a voxel centre in every layer, and
# neighbouring layers hold a common one, so a part can neither vanish nor break. 1 would do; the rest is margin.
MIN_THICKNESS = 1.25
WALL = 1.75  # the same for a curved wall, which the grid meets at every angle


class Part(ABC):
    """A solid that can be moved, thickened and painted on a grid."""

    @abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the axis-aligned bounding box."""

    @abstractmethod
    def moved(self, scale: float, offset: np.ndarray) -> Part:
        """The image under ``p -> scale p + offset``."""

    @abstractmethod
    def thickened(self, voxel: float) -> Part:
        """The part, grown where it is too thin for voxels of this edge."""

    @abstractmethod
    def paint(self, canvas: Bool[np.ndarray, "D D D"]) -> None:
        """Add to a grid ``[z, y, x]`` whose voxel (i, j, k) has its centre at (i, j, k): units are voxels here."""


@dataclass(frozen=True)
class Sweep(Part):
    """A superelliptic section that moves, and changes size, along one axis.

    At height t in [0, 1] between ``start`` and ``end`` the section has its centre on the straight line between them and the
    half-sizes ``(1 - t) start_half + t end_half``, times ``(1 - |2t - 1|^round)^(1/round)`` if it is rounded (``2t - 1`` is
    ``t`` if only the end is). A point at (u, v) from the centre is inside if ``|u / a|^power + |v / b|^power <= 1``.

    It serves as box (power INF), cylinder, ellipsoid (power 2, round 2), cushion, tapered or splayed leg, and leaning board.

    Args:
        start, end: centres of the end sections.
        start_half, end_half: half-sizes of the end sections along the two other axes, in the order x, y, z.
        axis: 0, 1, 2 for x, y, z, the axis of the sweep; ``start`` lies below ``end`` on it.
        power: exponent of the section: 2 an ellipse, 4 to 8 a rounded rectangle, INF a rectangle.
        round: exponent of the rounding along the axis, INF for flat ends.
        round_both: whether both ends are rounded, or the end alone.
        round_both_axes: whether rounding shrinks both half-sizes, or the first alone.
    """

    start: Vector
    end: Vector
    start_half: tuple[float, float]
    end_half: tuple[float, float]
    axis: int = 1
    power: float = INF
    round: float = INF
    round_both: bool = True
    round_both_axes: bool = True

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        ends = np.array([self.start, self.end])
        half = np.zeros((2, 3))
        half[:, _others(self.axis)] = [self.start_half, self.end_half]
        return (ends - half).min(0), (ends + half).max(0)

    def moved(self, scale: float, offset: np.ndarray) -> Sweep:
        return replace(
            self,
            start=tuple(scale * np.array(self.start) + offset),
            end=tuple(scale * np.array(self.end) + offset),
            start_half=(scale * self.start_half[0], scale * self.start_half[1]),
            end_half=(scale * self.end_half[0], scale * self.end_half[1]),
        )

    def thickened(self, voxel: float) -> Sweep:
        start, end = np.array(self.start), np.array(self.end)
        length = end[self.axis] - start[self.axis]
        slope = (end - start) / max(length, 1e-9)
        # The section must hold a square as wide as this; an ellipse holds one of 1/sqrt(2) of its diameter.
        fill = 1.0 if self.power == INF else 2 ** (1 / self.power)
        least = [voxel * fill * (MIN_THICKNESS + abs(slope[a])) / 2 for a in _others(self.axis)]
        if length < MIN_THICKNESS * voxel:
            start[self.axis] -= (MIN_THICKNESS * voxel - length) / 2
            end[self.axis] += (MIN_THICKNESS * voxel - length) / 2
        return replace(
            self,
            start=tuple(start),
            end=tuple(end),
            start_half=tuple(max(h, m) for h, m in zip(self.start_half, least, strict=True)),
            end_half=tuple(max(h, m) for h, m in zip(self.end_half, least, strict=True)),
        )

    def paint(self, canvas: Bool[np.ndarray, "D D D"]) -> None:
        blocks = _blocks(self.bounds(), canvas.shape[0])
        if blocks is not None:
            canvas[blocks[::-1]] |= self.inside(blocks)

    def inside(self, blocks: tuple[slice, slice, slice]) -> Bool[np.ndarray, "Z Y X"]:
        """Which voxels of the block (slices along x, y, z) lie inside, ``[z, y, x]``."""
        u_axis, v_axis = _others(self.axis)
        w = np.arange(blocks[self.axis].start, blocks[self.axis].stop, dtype=np.float64)
        length = max(self.end[self.axis] - self.start[self.axis], 1e-9)
        t = (w - self.start[self.axis]) / length
        valid = (t >= 0) & (t <= 1)
        profile = self._profile(t)
        sections = []
        for i, axis in enumerate((u_axis, v_axis)):
            center = self.start[axis] + t * (self.end[axis] - self.start[axis])
            half = self.start_half[i] + t * (self.end_half[i] - self.start_half[i])
            if i == 0 or self.round_both_axes:
                half = half * profile
            at = np.arange(blocks[axis].start, blocks[axis].stop, dtype=np.float64)
            distance = np.abs(at - center[:, None]) / np.maximum(half, 1e-9)[:, None]
            sections.append(distance if self.power == INF else distance**self.power)
        (u, v) = sections  # (W, U) and (W, V)
        if self.power == INF:
            solid = ((u <= 1) & valid[:, None])[:, :, None] & (v <= 1)[:, None, :]
        else:
            v = np.where(valid[:, None], v, INF)
            solid = u[:, :, None] + v[:, None, :] <= 1
        # solid is [w, u, v]; the grid is [z, y, x].
        order = [(self.axis, u_axis, v_axis).index(axis) for axis in (2, 1, 0)]
        return solid.transpose(order)

    def _profile(self, t: Float[np.ndarray, " W"]) -> Float[np.ndarray, " W"]:
        if self.round == INF:
            return np.ones_like(t)
        s = np.clip(np.abs(2 * t - 1) if self.round_both else t, 0, 1)
        return (1 - s**self.round) ** (1 / self.round)


@dataclass(frozen=True)
class Hollow(Part):
    """``outer`` without ``inner``; the wall between them keeps its least thickness.

    Args:
        outer, inner: along the same axis. Where ``inner`` reaches to or past an end of ``outer``, the hollow is open there.
        keep: (normal, distance): only points p with ``normal · p <= distance`` are kept; None keeps all.
    """

    outer: Sweep
    inner: Sweep
    keep: tuple[Vector, float] | None = None

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.outer.bounds()
        if (
            self.keep is not None and np.count_nonzero(self.keep[0]) == 1
        ):  # the bounds of a slanted cut are left as they are
            axis = int(np.flatnonzero(self.keep[0])[0])
            (high if self.keep[0][axis] > 0 else low)[axis] = self.keep[1] / self.keep[0][axis]
        return low, high

    def moved(self, scale: float, offset: np.ndarray) -> Hollow:
        keep = self.keep and (self.keep[0], scale * self.keep[1] + float(np.dot(self.keep[0], offset)))
        return Hollow(self.outer.moved(scale, offset), self.inner.moved(scale, offset), keep)

    def thickened(self, voxel: float) -> Hollow:
        outer, inner, axis = self.outer.thickened(voxel), self.inner, self.outer.axis
        start, end = np.array(inner.start), np.array(inner.end)
        # Open ends stay open, though the outer part may have grown past them; floors keep their thickness.
        is_open = (start[axis] <= self.outer.start[axis], end[axis] >= self.outer.end[axis])
        first, last = outer.start[axis], outer.end[axis]
        start[axis] = min(start[axis], first - voxel) if is_open[0] else max(start[axis], first + WALL * voxel)
        end[axis] = max(end[axis], last + voxel) if is_open[1] else min(end[axis], last - WALL * voxel)
        length = outer.end[axis] - outer.start[axis]
        halves = ([], [])
        for i, other in enumerate(_others(axis)):
            change = (outer.end_half[i] - outer.start_half[i]) / length
            drift = abs(change) + abs(outer.end[other] - outer.start[other]) / length
            for at, half, result in zip((start, end), (inner.start_half, inner.end_half), halves, strict=True):
                around = outer.start_half[i] + change * (at[axis] - outer.start[axis])
                result.append(max(min(half[i], around - voxel * (WALL + drift)), 0.0))
        inner = replace(
            inner, start=tuple(start), end=tuple(end), start_half=tuple(halves[0]), end_half=tuple(halves[1])
        )
        return replace(self, outer=outer, inner=inner)

    def paint(self, canvas: Bool[np.ndarray, "D D D"]) -> None:
        blocks = _blocks(self.bounds(), canvas.shape[0])
        if blocks is None:
            return
        solid = self.outer.inside(blocks)
        if self.inner.start[self.inner.axis] < self.inner.end[self.inner.axis]:
            solid &= ~self.inner.inside(blocks)
        if self.keep is not None:
            (nx, ny, nz), distance = self.keep
            x, y, z = (np.arange(b.start, b.stop) for b in blocks)
            solid &= (nz * z)[:, None, None] + (ny * y)[:, None] + nx * x <= distance
        canvas[blocks[::-1]] |= solid


@dataclass(frozen=True)
class OrientedBox(Part):
    """A box turned any way.

    Args:
        center: its middle.
        half: half-sizes along its own axes.
        rotation: ``(3, 3)``, rows are the box's axes in the world.
    """

    center: Vector
    half: Vector
    rotation: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        reach = np.abs(self.rotation).T @ np.array(self.half)
        return np.array(self.center) - reach, np.array(self.center) + reach

    def moved(self, scale: float, offset: np.ndarray) -> OrientedBox:
        center = scale * np.array(self.center) + offset
        return replace(self, center=tuple(center), half=tuple(scale * np.array(self.half)))

    def thickened(self, voxel: float) -> OrientedBox:
        # A ball of diameter sqrt(3) holds a voxel centre wherever it is.
        return replace(self, half=tuple(np.maximum(self.half, 0.9 * voxel)))

    def paint(self, canvas: Bool[np.ndarray, "D D D"]) -> None:
        blocks = _blocks(self.bounds(), canvas.shape[0])
        if blocks is None:
            return
        x, y, z = (np.arange(b.start, b.stop) - c for b, c in zip(blocks, self.center, strict=True))
        solid = np.ones((len(z), len(y), len(x)), bool)
        for row, half in zip(self.rotation, self.half, strict=True):
            flat = row[1] * y[:, None] + row[0] * x[None, :]
            solid &= np.abs(flat + (row[2] * z)[:, None, None]) <= half
        canvas[blocks[::-1]] |= solid


def rasterize(parts: Sequence[Part], size: int, extent: float) -> Bool[np.ndarray, "D D D"]:
    """The union of ``parts`` on a grid ``[z, y, x]``, centred, its longest side ``extent`` of the grid's.

    The outermost layer of voxels stays empty, and no part is thinner than :data:`MIN_THICKNESS` voxels.
    """
    usable = size - 2.0
    parts = list(parts)
    for _ in range(2):  # thickening moves the bounds a little: fit, thicken, fit again
        low, high = _bounds(parts)
        scale = min(extent * size, usable) / (high - low).max()
        offset = (size - 1) / 2 - scale * (low + high) / 2
        parts = [part.moved(scale, offset).thickened(1.0) for part in parts]
    canvas = np.zeros((size, size, size), bool)
    for part in parts:
        part.paint(canvas)
    return canvas


def _bounds(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    bounds = [part.bounds() for part in parts]
    return np.min([low for low, _ in bounds], axis=0), np.max([high for _, high in bounds], axis=0)


def _others(axis: int) -> tuple[int, int]:
    return ((1, 2), (0, 2), (0, 1))[axis]


def _blocks(bounds: tuple[np.ndarray, np.ndarray], size: int) -> tuple[slice, slice, slice] | None:
    """Slices along x, y, z of the voxel centres within the bounds, the grid's outermost layer excluded."""
    low = np.maximum(np.ceil(bounds[0] - 1e-9), 1).astype(int)
    high = np.minimum(np.floor(bounds[1] + 1e-9), size - 2).astype(int) + 1
    if (low >= high).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def box(center: Vector, half: Vector) -> Sweep:
    """An axis-aligned box."""
    return block(center, half, INF, INF)


def block(center: Vector, half: Vector, power: float, round: float = INF, axis: int = 1) -> Sweep:
    """A straight, untapered sweep with the given middle and half-sizes (x, y, z)."""
    reach = np.zeros(3)
    reach[axis] = half[axis]
    u, v = (half[a] for a in _others(axis))
    start, end = tuple(np.array(center) - reach), tuple(np.array(center) + reach)
    return Sweep(start, end, (u, v), (u, v), axis, power, round)


def strut(
    a: Sequence[float],
    b: Sequence[float],
    half: float | tuple[float, float],
    end_half: float | tuple[float, float] | None = None,
    power: float = INF,
) -> Sweep:
    """A bar from ``a`` to ``b``, swept along the axis on which they lie farthest apart, with half-sizes at both ends."""
    axis = int(np.argmax(np.abs(np.subtract(b, a))))
    pair = half if isinstance(half, tuple) else (half, half)
    end_half = pair if end_half is None else end_half
    end_pair = end_half if isinstance(end_half, tuple) else (end_half, end_half)
    if a[axis] > b[axis]:
        a, b, pair, end_pair = b, a, end_pair, pair
    return Sweep(tuple(map(float, a)), tuple(map(float, b)), pair, end_pair, axis, power)


def ring(center: Vector, half: Vector, wall: float, axis: int = 1, power: float = 2) -> Hollow:
    """A band of thickness ``wall`` within the superelliptic cylinder of the given half-sizes, open along ``axis``."""
    outer = block(center, half, power, axis=axis)
    inner_half = tuple(h * 1.2 if i == axis else h - wall for i, h in enumerate(half))
    return Hollow(outer, block(center, inner_half, power, axis=axis))
