"""Measurements of voxel grids, for tests of shape sources."""

import numpy as np

from datamodules.shapes import ShapeSource


def solid_of(source: ShapeSource, index: int = 0) -> np.ndarray:
    """Return a shape's boolean grid ``[z, y, x]``."""
    return source[index].voxels.occupancy[0, 0].numpy() > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def centre_of_mass(values: np.ndarray, axis: int) -> float:
    """Return the centre of mass along an axis, in voxels from the middle of the grid."""
    weights = values.sum(tuple(a for a in range(3) if a != axis))
    return (weights * (np.arange(len(weights)) - (len(weights) - 1) / 2)).sum() / weights.sum()
