"""Procedural shapes: seeded, unlimited in number, and available without a download."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from datamodules.shapes.base import Shape, ShapeSource, Split, check_split, check_voxel_size, digest, to_voxel_grid
from datamodules.shapes.procedural.bathtubs import bathtub
from datamodules.shapes.procedural.chairs import chair
from datamodules.shapes.procedural.couches import couch
from datamodules.shapes.procedural.cubes import cubes
from datamodules.shapes.procedural.primitives import Part, paint, place
from datamodules.shapes.procedural.tables import table
from datamodules.shapes.processing.connected_components import count_components
from utils.errors import check_choice, check_number

Category = Literal["chair", "couch", "bathtub", "table", "cubes"]
# Increase when a change alters any shape, so that caches of older shapes are not reused.
VERSION = 1
COLOR_VERSION = 1  # the same for colours
COLOR_STREAM = 256  # appended to the entropy of a shape; more than any byte of a category
GROUND = 0.1  # a part stands on the ground if it begins below this fraction of the height
EXTENT = (0.85, 0.95)  # longest side as a fraction of the cube's

_GENERATORS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "chair": chair,
    "couch": couch,
    "bathtub": bathtub,
    "table": table,
    "cubes": cubes,
}


class ProceduralShapes(ShapeSource):
    """Random shapes of one category, each a function of (category, seed, split, index) alone.

    Train and test use different random streams and so share no shape. Another ``voxel_size`` samples the same shapes at
    another resolution. Shapes are solid, 6-connected, leave the outermost layer of voxels empty, and their longest side is
    about 0.85 to 0.95 of the cube's.

    Args:
        category: chair, couch, bathtub, table, or cubes (1 to 12 random boxes, for pre-training a proxy).
        count: number of shapes per split; ``all`` is the train shapes followed by the test shapes.
        voxel_size: voxels per edge, at least 16.
        seed: seed of the shapes.
        split: train, test or all.
        colored: whether each shape has two random colours: one for the parts that stand on the ground, such as legs, and one
            for the others. The shapes are the same as without colours.

    Raises:
        InputError: the category or split is unknown, or a number is out of range.
    """

    def __init__(
        self,
        category: Category,
        count: int = 10000,
        voxel_size: int = 64,
        seed: int = 0,
        split: Split = "train",
        colored: bool = False,
    ) -> None:
        check_split(split)
        check_voxel_size(voxel_size, smallest=16)
        check_choice("category", category, get_args(Category))
        check_number("count", count, at_least=1)
        check_number("seed", seed, at_least=0)
        self.category = category
        self.count = count
        self.voxel_size = voxel_size
        self.seed = seed
        self.split = split
        self.colored = colored

    def __len__(self) -> int:
        return self.count * (2 if self.split == "all" else 1)

    def __getitem__(self, index: int) -> Shape:
        stream, number = self._stream(index)
        entropy = [self.seed, ("train", "test").index(stream), number, *self.category.encode()]
        rng = np.random.default_rng(entropy)
        extent = rng.uniform(*EXTENT)
        parts = place(_GENERATORS[self.category](rng), self.voxel_size, extent)
        solid = _connect(paint(parts, self.voxel_size))
        voxels = to_voxel_grid(solid)
        if self.colored:
            color = _colors(parts, self.voxel_size, np.random.default_rng([*entropy, COLOR_STREAM]))
            voxels = replace(voxels, color=torch.from_numpy(color)[None])
        return Shape(self.name(index), voxels)

    def name(self, index: int) -> str:
        stream, number = self._stream(index)
        return f"{self.category}-{stream}-{self.seed}-{number:06d}"

    def cache_key(self) -> str:
        options = (COLOR_VERSION,) if self.colored else ()
        return digest(
            "procedural", VERSION, self.category, self.count, self.voxel_size, self.seed, self.split, *options
        )

    def _stream(self, index: int) -> tuple[str, int]:
        self._check_index(index)
        if self.split != "all":
            return self.split, index
        return ("train", index) if index < self.count else ("test", index - self.count)


def _colors(parts: list[Part], size: int, rng: np.random.Generator) -> Float[np.ndarray, "3 D D D"]:
    """Return RGB for every voxel, float32. Where parts overlap, the one off the ground counts; others take the nearest."""
    standing_rgb, raised_rgb = (
        colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.5, 1), rng.uniform(0.5, 1)) for _ in range(2)
    )
    bounds = [part.bounds() for part in parts]
    low, high = min(a[1] for a, _ in bounds), max(b[1] for _, b in bounds)
    on_ground = [a[1] < low + GROUND * (high - low) for a, _ in bounds]
    raised = paint([part for part, stands in zip(parts, on_ground, strict=True) if not stands], size)
    painted = paint(parts, size)
    nearest = ndimage.distance_transform_edt(~painted, return_distances=False, return_indices=True)
    is_raised = raised[tuple(nearest)]
    return np.where(is_raised, *(np.reshape(rgb, (3, 1, 1, 1)) for rgb in (raised_rgb, standing_rgb))).astype(
        np.float32
    )


def _connect(solid: Bool[np.ndarray, "D D D"]) -> Bool[np.ndarray, "D D D"]:
    """Return the solid as one component without closed cavities, which no renderer could show.

    On a coarse grid, two thin parts may touch only diagonally; the voxels between them are filled. Specks are removed.
    """
    if count_components(solid) <= 1 and count_components(solid, False) == 1:
        return solid  # the case for nearly all shapes
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
