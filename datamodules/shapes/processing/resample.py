"""Resampling of occupancy grids that preserves thin parts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

Vector = tuple[float, float, float]


def resample(
    solid: Bool[np.ndarray, "D D D"], size: int, low: Vector = (-0.5, -0.5, -0.5), edge: float = 1.0
) -> Bool[np.ndarray, "N N N"]:
    """Resample the occupancy ``[z, y, x]`` of a cube in the world to the grid that fills [-1/2, 1/2]³.

    A target voxel is occupied if it contains the centre of an occupied source voxel (max-pooling, so that thin legs survive
    in smaller grids). A target voxel that contains no centre takes the source voxel at its own centre.

    Args:
        solid: the source grid.
        size: voxels per edge of the result, N.
        low: lower corner (x, y, z) of the source cube in the world.
        edge: edge length of the source cube in the world.
    """
    result = solid.astype(bool)
    for axis, start in zip((0, 1, 2), reversed(low), strict=True):  # z first, because its layers are contiguous
        result = _pool(result, axis, size, start, edge)
    return result


def _pool(values: np.ndarray, axis: int, size: int, low: float, edge: float) -> np.ndarray:
    count = values.shape[axis]
    # Borders of the target voxels in source voxels; source voxel i has its centre at i + 1/2. They are rounded so that a
    # border at a voxel centre is assigned to the same side on every machine.
    borders = np.round(((np.arange(size + 1) / size - 0.5) - low) / edge * count, 6)
    first = np.ceil(borders[:-1] - 0.5).astype(int)
    last = np.ceil(borders[1:] - 0.5).astype(int)  # exclusive
    nearest = np.floor((borders[:-1] + borders[1:]) / 2).astype(int)
    empty = first >= last  # no source centre in the target voxel
    first, last = np.where(empty, nearest, first), np.where(empty, nearest + 1, last)
    first, last = np.clip(first, 0, count), np.clip(last, 0, count)
    layers = np.ascontiguousarray(np.moveaxis(values, axis, 0))
    pooled = np.zeros((size, *layers.shape[1:]), bool)
    for i, (a, b) in enumerate(zip(first, last, strict=True)):
        np.any(layers[a:b], axis=0, out=pooled[i])
    return np.moveaxis(pooled, 0, axis)


def occupied_box(solid: Bool[np.ndarray, "D D D"]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the first occupied voxel and the last occupied voxel plus one, each (x, y, z).

    Raises:
        ValueError: the grid is empty.
    """
    spans = []
    for axis in (2, 1, 0):
        filled = np.flatnonzero(solid.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(filled):
            raise ValueError("the grid is empty")
        spans.append((int(filled[0]), int(filled[-1]) + 1))
    (x0, x1), (y0, y1), (z0, z1) = spans
    return (x0, y0, z0), (x1, y1, z1)


def fit_to_cube(solid: Bool[np.ndarray, "D D D"], size: int, span: float = 0.9) -> Bool[np.ndarray, "N N N"]:
    """Centre the occupied part and scale its longest side to ``span`` of the cube; an empty grid stays empty."""
    if not solid.any():
        return np.zeros((size, size, size), bool)
    low, high = occupied_box(solid)
    voxel = span / max(h - a for a, h in zip(low, high, strict=True))
    x, y, z = (-voxel * (a + h) / 2 for a, h in zip(low, high, strict=True))
    return resample(solid, size, (x, y, z), voxel * solid.shape[0])
