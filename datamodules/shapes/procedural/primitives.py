"""Analytic solids and the rasterization of their union to a voxel grid.

Procedural shapes are lists of these solids. Coordinates are (x, y, z), y up, in any unit: :func:`rasterize` scales the
union to the grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

T = TypeVar("T")
Vector = tuple[float, float, float]
INF = float("inf")
# A section at least this many voxels wide (plus its drift per layer) contains a voxel centre in every layer, and
# neighbouring layers share one, so a part can neither vanish nor break. 1 would be enough; the rest is margin.
MIN_THICKNESS = 1.25
WALL = 1.75  # the same for a curved wall, which crosses the grid at every angle


class Part(ABC):
    """A solid that can be transformed, thickened and painted on a grid."""

    @abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper corner of the axis-aligned bounding box."""

    @abstractmethod
    def moved(self, scale: float, offset: np.ndarray) -> Part:
        """Return the part transformed by ``p -> scale p + offset``."""

    @abstractmethod
    def thickened(self, voxel: float) -> Part:
        """Return the part, thickened where it is too thin for voxels of this edge length."""

    @abstractmethod
    def paint(self, canvas: Bool[np.ndarray, "D D D"]) -> None:
        """Set the part's voxels in a grid ``[z, y, x]``. Units are voxels: voxel (i, j, k) has its centre at (i, j, k)."""


@dataclass(frozen=True)
class Sweep(Part):
    """A superelliptic section that is swept along one axis while it moves and changes size.

    At height t in [0, 1], the section's centre is on the line from ``start`` to ``end``. Its half-sizes (a, b) are
    ``(1 - t) start_half + t end_half``, times ``(1 - |2t - 1|^round)^(1/round)`` if both ends are rounded, or
    ``(1 - t^round)^(1/round)`` if only the end is. A point at (u, v) from the centre is inside if
    ``|u / a|^power + |v / b|^power <= 1``.

    Sweeps are boxes (power INF), cylinders, ellipsoids (power 2, round 2), cushions, tapered or splayed legs, and leaning
    boards.

    Args:
        start, end: centres of the end sections.
        start_half, end_half: half-sizes of the end sections along the two other axes, in the order x, y, z.
        axis: axis of the sweep, 0, 1, 2 for x, y, z; ``start`` is below ``end`` on it.
        power: exponent of the section: 2 for an ellipse, 4 to 8 for a rounded rectangle, INF for a rectangle.
        round: exponent of the rounding along the axis, INF for flat ends.
        round_both: whether both ends are rounded, or only the end.
        round_both_axes: whether rounding shrinks both half-sizes, or only the first.
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
        # The section must contain a square of this width; an ellipse contains one of 1/sqrt(2) of its diameter.
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
        """Return which voxels of the block (slices along x, y, z) are inside, ``[z, y, x]``."""
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
    """``outer`` minus ``inner``; the wall between them keeps a minimum thickness.

    Args:
        outer, inner: sweeps along the same axis. The hollow is open at each end of ``outer`` that ``inner`` reaches.
        keep: (normal, distance); only points p with ``normal · p <= distance`` are kept. None keeps all.
    """

    outer: Sweep
    inner: Sweep
    keep: tuple[Vector, float] | None = None

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.outer.bounds()
        if self.keep is not None and np.count_nonzero(self.keep[0]) == 1:  # slanted cuts do not change the bounds
            axis = int(np.flatnonzero(self.keep[0])[0])
            (high if self.keep[0][axis] > 0 else low)[axis] = self.keep[1] / self.keep[0][axis]
        return low, high

    def moved(self, scale: float, offset: np.ndarray) -> Hollow:
        keep = self.keep and (self.keep[0], scale * self.keep[1] + float(np.dot(self.keep[0], offset)))
        return Hollow(self.outer.moved(scale, offset), self.inner.moved(scale, offset), keep)

    def thickened(self, voxel: float) -> Hollow:
        outer, inner, axis = self.outer.thickened(voxel), self.inner, self.outer.axis
        start, end = np.array(inner.start), np.array(inner.end)
        # Open ends stay open although the outer part may have grown past them; floors keep their thickness.
        is_open = (start[axis] <= self.outer.start[axis], end[axis] >= self.outer.end[axis])
        first, last = outer.start[axis], outer.end[axis]
        start[axis] = min(start[axis], first - voxel) if is_open[0] else max(start[axis], first + WALL * voxel)
        end[axis] = max(end[axis], last + voxel) if is_open[1] else min(end[axis], last - WALL * voxel)
        length = outer.end[axis] - outer.start[axis]
        start_half, end_half = list(inner.start_half), list(inner.end_half)
        for i, other in enumerate(_others(axis)):
            change = (outer.end_half[i] - outer.start_half[i]) / length
            drift = abs(change) + abs(outer.end[other] - outer.start[other]) / length
            for center, half in ((start, start_half), (end, end_half)):
                outer_half = outer.start_half[i] + change * (center[axis] - outer.start[axis])
                half[i] = max(min(half[i], outer_half - voxel * (WALL + drift)), 0.0)
        (su, sv), (eu, ev) = start_half, end_half
        inner = replace(inner, start=tuple(start), end=tuple(end), start_half=(su, sv), end_half=(eu, ev))
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
    """A rotated box.

    Args:
        center: its centre.
        half: half-sizes along its own axes.
        rotation: ``(3, 3)``; rows are the box's axes in the world.
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
        # A ball of diameter sqrt(3) contains a voxel centre at every position.
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
    """Rasterize the union of ``parts`` to a grid ``[z, y, x]``, placed as by :func:`place`."""
    return paint(place(parts, size, extent), size)


def place(parts: Sequence[Part], size: int, extent: float) -> list[Part]:
    """Scale ``parts`` to a grid, in voxels, centred, the longest side of their union ``extent`` of the grid's.

    The outermost layer of voxels stays empty, and no part is thinner than :data:`MIN_THICKNESS` voxels.
    """
    usable = size - 2.0
    parts = list(parts)
    for _ in range(2):  # twice, because thickening changes the bounds a little
        low, high = _bounds(parts)
        scale = min(extent * size, usable) / (high - low).max()
        offset = (size - 1) / 2 - scale * (low + high) / 2
        parts = [part.moved(scale, offset).thickened(1.0) for part in parts]
    return parts


def paint(parts: Sequence[Part], size: int) -> Bool[np.ndarray, "D D D"]:
    """Return the union of parts that :func:`place` has placed in a grid, ``[z, y, x]``."""
    canvas = np.zeros((size, size, size), bool)
    for part in parts:
        part.paint(canvas)
    return canvas


def _bounds(parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    bounds = [part.bounds() for part in parts]
    return np.min([low for low, _ in bounds], axis=0), np.max([high for _, high in bounds], axis=0)


def choose(rng: np.random.Generator, probabilities: dict[T, float]) -> T:
    """Sample a key with the probability that is its value."""
    return list(probabilities)[rng.choice(len(probabilities), p=list(probabilities.values()))]


def vector(values: Sequence[float] | np.ndarray) -> Vector:
    """Convert three numbers to a tuple."""
    x, y, z = map(float, values)
    return x, y, z


def _others(axis: int) -> tuple[int, int]:
    return ((1, 2), (0, 2), (0, 1))[axis]


def _blocks(bounds: tuple[np.ndarray, np.ndarray], size: int) -> tuple[slice, slice, slice] | None:
    """Return slices along x, y, z of the voxel centres within the bounds, without the grid's outermost layer."""
    low = np.maximum(np.ceil(bounds[0] - 1e-9), 1).astype(int)
    high = np.minimum(np.floor(bounds[1] + 1e-9), size - 2).astype(int) + 1
    if (low >= high).any():
        return None
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def box(center: Vector, half: Vector) -> Sweep:
    """Return an axis-aligned box."""
    return block(center, half, INF, INF)


def block(center: Vector, half: Vector, power: float, round: float = INF, axis: int = 1) -> Sweep:
    """Return a straight, untapered sweep with the given centre and half-sizes (x, y, z)."""
    reach = np.zeros(3)
    reach[axis] = half[axis]
    u, v = (half[a] for a in _others(axis))
    return Sweep(vector(center - reach), vector(center + reach), (u, v), (u, v), axis, power, round)


def strut(
    a: Sequence[float],
    b: Sequence[float],
    half: float | tuple[float, float],
    end_half: float | tuple[float, float] | None = None,
    power: float = INF,
) -> Sweep:
    """Return a bar from ``a`` to ``b``, swept along the axis of their largest distance, with half-sizes at both ends."""
    axis = int(np.argmax(np.abs(np.subtract(b, a))))
    pair = half if isinstance(half, tuple) else (half, half)
    end_half = pair if end_half is None else end_half
    end_pair = end_half if isinstance(end_half, tuple) else (end_half, end_half)
    if a[axis] > b[axis]:
        a, b, pair, end_pair = b, a, end_pair, pair
    return Sweep(vector(a), vector(b), pair, end_pair, axis, power)


def ring(center: Vector, half: Vector, wall: float, axis: int = 1, power: float = 2) -> Hollow:
    """Return a band of thickness ``wall`` inside a superelliptic cylinder of the given half-sizes, open along ``axis``."""
    outer = block(center, half, power, axis=axis)
    x, y, z = (h * 1.2 if i == axis else h - wall for i, h in enumerate(half))
    return Hollow(outer, block(center, (x, y, z), power, axis=axis))
