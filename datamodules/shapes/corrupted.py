"""Shapes with a generator's typical faults: ragged surfaces, missing pieces, floating fragments."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import distance_transform_edt, zoom

from datamodules.shapes.base import Shape, ShapeSource, digest, to_voxel_grid
from utils.errors import check_number

VERSION = 1


class CorruptedShapes(ShapeSource):
    """The shapes of another source, each corrupted randomly and to a random degree.

    A classifier that must separate corrupted from intact shapes learns features of quality. One that only separates chairs
    from tables accepts any blob of the right size as a chair.

    Args:
        shapes: the intact shapes.
        seed: seed of the corruption.
    """

    def __init__(self, shapes: ShapeSource, seed: int = 0) -> None:
        check_number("seed", seed, at_least=0)
        self.shapes, self.seed, self.voxel_size = shapes, seed, shapes.voxel_size

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Shape:
        solid = self.shapes[index].voxels.occupancy[0, 0].numpy() > 0.5
        return Shape(self.name(index), to_voxel_grid(corrupt(solid, np.random.default_rng([self.seed, index]))))

    def name(self, index: int) -> str:
        return f"{self.shapes.name(index)} damaged"

    def cache_key(self) -> str:
        return digest("damaged", VERSION, self.seed, self.shapes.cache_key())


def corrupt(solid: Bool[np.ndarray, "D D D"], rng: np.random.Generator) -> Bool[np.ndarray, "D D D"]:
    """Shift the surface by smooth noise and flip single voxels near it, both by random amounts."""
    size = solid.shape[0]
    outside = distance_transform_edt(~solid) if solid.any() else np.full(solid.shape, float(size))
    signed = outside - distance_transform_edt(solid)  # distance to the surface in voxels, negative inside
    cells = int(rng.choice([4, 8, 16]))
    noise = zoom(rng.standard_normal((min(cells, size),) * 3), size / min(cells, size), order=1)
    amount = rng.uniform(0.3, 1.5) * size / 32
    corrupted = signed + amount * noise < 0.5
    flip = (rng.random(solid.shape) < rng.uniform(0, 0.15)) & (np.abs(signed) < 2 * size / 32)
    return corrupted ^ flip
