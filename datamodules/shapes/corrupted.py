"""Shapes with the faults that a generator's have: ragged surfaces, lost pieces, floating crumbs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy.ndimage import distance_transform_edt, zoom

from datamodules.shapes.base import Shape, ShapeSource, digest, to_voxel_grid

VERSION = 1


class CorruptedShapes(ShapeSource):
    """Every shape of another source, damaged at random to a random degree.

    A classifier that must tell the damaged from the whole has features that see quality; one that need only tell chairs
    from tables takes any heap of the right size for a chair.

    Args:
        shapes: the whole ones.
        seed: of the damage.
    """

    def __init__(self, shapes: ShapeSource, seed: int = 0) -> None:
        self.shapes, self.seed, self.voxel_size = shapes, seed, shapes.voxel_size

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Shape:
        whole = self.shapes[index]
        solid = whole.voxels.occupancy[0, 0].numpy() > 0.5
        return Shape(self.name(index), to_voxel_grid(damage(solid, np.random.default_rng([self.seed, index]))))

    def name(self, index: int) -> str:
        return f"{self.shapes.name(index)} damaged"

    def cache_key(self) -> str:
        return digest("damaged", VERSION, self.seed, self.shapes.cache_key())


def damage(solid: Bool[np.ndarray, "D D D"], rng: np.random.Generator) -> Bool[np.ndarray, "D D D"]:
    """Shift the surface by smooth noise and turn single voxels near it, each by a random amount."""
    size = solid.shape[0]
    outside = distance_transform_edt(~solid) if solid.any() else np.full(solid.shape, float(size))
    signed = outside - distance_transform_edt(solid)  # voxels to the surface, negative within
    cells = int(rng.choice([4, 8, 16]))
    noise = zoom(rng.standard_normal((min(cells, size),) * 3), size / min(cells, size), order=1)
    amount = rng.uniform(0.3, 1.5) * size / 32
    damaged = signed + amount * noise < 0.5
    flip = (rng.random(solid.shape) < rng.uniform(0, 0.15)) & (np.abs(signed) < 2 * size / 32)
    return damaged ^ flip
