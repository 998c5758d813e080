"""Shapes made by programs: endless, seeded, and there before any download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from datamodules.shapes.base import Shape, ShapeSource, Split, check_split, check_voxel_size, digest, to_voxel_grid
from datamodules.shapes.procedural.bathtubs import bathtub
from datamodules.shapes.procedural.chairs import chair
from datamodules.shapes.procedural.couches import couch
from datamodules.shapes.procedural.cubes import cubes
from datamodules.shapes.procedural.primitives import Part, rasterize
from datamodules.shapes.procedural.tables import table
from datamodules.shapes.processing.connected_components import count_pieces
from utils.errors import InputError

Category = Literal["chair", "couch", "bathtub", "table", "cubes"]
# Raise it whenever a change of the programs changes any shape: caches of older shapes are then not reused.
VERSION = 1
EXTENT = (0.85, 0.95)  # longest side, as a share of the cube's

_MAKERS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "chair": chair,
    "couch": couch,
    "bathtub": bathtub,
    "table": table,
    "cubes": cubes,
}


class ProceduralShapes(ShapeSource):
    """Random shapes of one category, each a function of (category, seed, split, index) alone.

    Train and test draw from different random streams, so no shape of one is in the other. The same shape at another
    ``voxel_size`` is the same shape, sampled more finely. Shapes are solid and in one piece (6-connected), leave the
    outermost layer of voxels empty, and their longest side takes about 0.85 to 0.95 of the cube's.

    Args:
        category: chair, couch, bathtub, table, or cubes (1 to 12 random boxes, to pre-train a proxy on).
        count: shapes in a split; ``all`` is the ``count`` of train followed by the ``count`` of test.
        voxel_size: voxels along an edge, from 16.
        seed: another seed gives other shapes.
        split: train, test or all.

    Raises:
        InputError: an unknown category or split, or sizes that make no sense.
    """

    def __init__(
        self, category: Category, count: int = 10000, voxel_size: int = 64, seed: int = 0, split: Split = "train"
    ) -> None:
        check_split(split)
        check_voxel_size(voxel_size, smallest=16)
        if category not in _MAKERS:
            raise InputError(f"procedural shapes are {', '.join(get_args(Category))}; there is no {category!r}")
        if count < 1 or seed < 0:
            raise InputError(f"count must be at least 1 and seed at least 0, got {count} and {seed}")
        self.category = category
        self.count = count
        self.voxel_size = voxel_size
        self.seed = seed
        self.split = split

    def __len__(self) -> int:
        return self.count * (2 if self.split == "all" else 1)

    def __getitem__(self, index: int) -> Shape:
        stream, number = self._stream(index)
        words = [self.seed, ("train", "test").index(stream), number, *self.category.encode()]
        rng = np.random.default_rng(words)
        extent = rng.uniform(*EXTENT)
        solid = _one_solid(rasterize(_MAKERS[self.category](rng), self.voxel_size, extent))
        return Shape(self.name(index), to_voxel_grid(solid))

    def name(self, index: int) -> str:
        stream, number = self._stream(index)
        return f"{self.category}-{stream}-{self.seed}-{number:06d}"

    def cache_key(self) -> str:
        return digest("procedural", VERSION, self.category, self.count, self.voxel_size, self.seed, self.split)

    def _stream(self, index: int) -> tuple[str, int]:
        self._check_index(index)
        if self.split != "all":
            return self.split, index
        return ("train", index) if index < self.count else ("test", index - self.count)


def _one_solid(solid: Bool[np.ndarray, "D D D"]) -> Bool[np.ndarray, "D D D"]:
    """The solid in one piece, without closed cavities, which no renderer could show.

    On a coarse grid a joint of two thin parts may end up diagonal: the voxels between are filled. Specks go.
    """
    if count_pieces(solid) <= 1 and count_pieces(solid, False) == 1:
        return solid  # as nearly all are
    labels, n = ndimage.label(solid)
    while n > 1:
        largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        near = ndimage.binary_dilation(largest)
        bridge = near & ndimage.binary_dilation(solid & ~largest)
        if not bridge.any():
            solid = largest
            break
        solid = solid | bridge
        labels, n = ndimage.label(solid)
    outside, n = ndimage.label(~solid)
    return solid if n == 1 else outside != outside[0, 0, 0]
