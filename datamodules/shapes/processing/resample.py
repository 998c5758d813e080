"""Occupancy from one grid to another without losing thin parts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def regrid(
    solid: Bool[np.ndarray, "D D D"], size: int, low: tuple[float, float, float] = (-0.5, -0.5, -0.5), edge: float = 1.0
) -> Bool[np.ndarray, "N N N"]:
    """Occupancy ``[z, y, x]`` of a cube placed in the world, on the grid that fills [-1/2, 1/2]³.

    A voxel of the result is occupied if any voxel of the source has its centre in it (max-pooling, so thin legs survive a
    smaller grid), or, where it is the finer one, if the source voxel at its centre is.

    Args:
        solid: the source grid.
        size: voxels along an edge of the result, N.
        low: (x, y, z) of the source cube's lower corner in the world.
        edge: the source cube's edge length in the world.
    """
    result = solid.astype(bool)
    for axis, start in zip((0, 1, 2), reversed(low), strict=True):  # z first: its layers lie in one piece in memory
        result = _pool(result, axis, size, start, edge)
    return result


def _pool(values: np.ndarray, axis: int, size: int, low: float, edge: float) -> np.ndarray:
    count = values.shape[axis]
    # Borders of the target voxels in source voxels; source voxel i has its centre at i + 1/2. Rounded, so that a border
    # that falls on a centre falls the same way on every machine.
    borders = np.round(((np.arange(size + 1) / size - 0.5) - low) / edge * count, 6)
    first = np.ceil(borders[:-1] - 0.5).astype(int)
    last = np.ceil(borders[1:] - 0.5).astype(int)  # exclusive
    nearest = np.floor((borders[:-1] + borders[1:]) / 2).astype(int)
    finer = first >= last  # no centre within: take the source voxel around the target's centre
    first, last = np.where(finer, nearest, first), np.where(finer, nearest + 1, last)
    first, last = np.clip(first, 0, count), np.clip(last, 0, count)
    layers = np.ascontiguousarray(np.moveaxis(values, axis, 0))
    pooled = np.zeros((size, *layers.shape[1:]), bool)
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        np.any(layers[a:b], axis=0, out=pooled[i])
    return np.moveaxis(pooled, 0, axis)


def occupied_box(
    solid: Bool[np.ndarray, "D D D"],
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First occupied and last occupied plus one voxel, each (x, y, z).

    Raises:
        ValueError: an empty grid.
    """
    spans = []
    for axis in (2, 1, 0):
        filled = np.flatnonzero(solid.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(filled):
            raise ValueError("the grid is empty")
        spans.append((int(filled[0]), int(filled[-1]) + 1))
    (x0, x1), (y0, y1), (z0, z1) = spans
    return (x0, y0, z0), (x1, y1, z1)


def fit(solid: Bool[np.ndarray, "D D D"], size: int, span: float = 0.9) -> Bool[np.ndarray, "N N N"]:
    """The occupied part centred in the cube, its longest side ``span`` of the cube's; an empty grid stays empty."""
    if not solid.any():
        return np.zeros((size, size, size), bool)
    low, high = occupied_box(solid)
    voxel = span / max(h - a for a, h in zip(low, high, strict=True))
    corner = tuple(-voxel * (a + h) / 2 for a, h in zip(low, high, strict=True))
    return regrid(solid, size, corner, voxel * solid.shape[0])
