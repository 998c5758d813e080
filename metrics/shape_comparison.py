"""Comparison of generated voxel shapes with held-out and training shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metrics.point_clouds import (
    chamfer_matrix,
    compare_clouds,
    minimum_matching_distance,
    rotate_clouds,
    surface_clouds,
)
from metrics.shapes import PackedGrids, largest_piece, nearest_training_iou
from renderers import InputError
from utils.files import cache_key, save_torch
from utils.progress import Progress
from utils.torch_io import load_state

POINTS = 1024  # points per surface, unless stated otherwise
# Shapes and points per shape that determine the orientation. With 32 and 128, the front and the back of chairs, whose MMD
# differs by 10 %, were confused.
ALIGNMENT_SHAPES, ALIGNMENT_POINTS = 100, 256
SHAPE_METRICS = ("coverage", "mmd", "one_nn_accuracy", "largest_piece", "nearest_iou")
CACHE_VERSION = 1  # increase when a change alters the clouds of the same shapes


@runtime_checkable
class Shapes(Protocol):
    """What a comparison needs of a :class:`datamodules.shapes.ShapeSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def cache_key(self) -> str: ...


@dataclass(frozen=True)
class ShapeReference:
    """The shapes that generated ones are compared with.

    Args:
        clouds: points on the surfaces of the held-out shapes.
        distances: Chamfer distances between the held-out shapes.
        training: training shapes.
    """

    clouds: Float[Tensor, "R P 3"]
    distances: Float[Tensor, "R R"]
    training: PackedGrids

    @classmethod
    def measure(
        cls,
        held_out: Shapes,
        training: Shapes,
        count: int,
        points: int = POINTS,
        training_limit: int | None = None,
        cache_dir: Path | None = None,
    ) -> ShapeReference:
        """Read the shapes and measure the held-out ones, or load the result of an earlier call from ``cache_dir``.

        Args:
            held_out: shapes that were not trained on. The first ``count`` that are not empty are used.
            training: the training set.
            count: maximum number of held-out shapes.
            points: points per surface.
            training_limit: maximum number of training shapes, evenly spaced over the set; None uses all. They are kept in
                memory as bits.
            cache_dir: directory of the cache, or None.

        Raises:
            InputError: all held-out shapes are empty, or a file of the shapes is unusable.
        """
        numbers = evenly_spaced(range(len(training)), training_limit or len(training))
        key = cache_key(CACHE_VERSION, held_out.cache_key(), training.cache_key(), count, points, len(numbers))
        file = cache_dir / f"shapes-{key}.pt" if cache_dir else None
        if file and (cached := _load(file)):
            return cached
        solids = list(islice(filter(Tensor.any, map(partial(_solid, held_out), range(len(held_out)))), count))
        if not solids:
            raise InputError("all held-out shapes are empty, so no shapes can be compared; check the data")
        clouds = surface_clouds(torch.stack(solids), points)
        reference = cls(clouds, chamfer_matrix(clouds), PackedGrids.pack(_read(training, numbers)))
        if file:
            save_torch(asdict(reference), file)
        return reference

    def first(self, count: int) -> ShapeReference:
        """Return the reference with the first ``count`` held-out shapes and all training shapes."""
        return ShapeReference(self.clouds[:count], self.distances[:count, :count], self.training)


def compare_shapes(
    solids: Bool[Tensor, "N D D D"], reference: ShapeReference, per_shape: bool = False, seed: int = 0
) -> tuple[dict[str, float], Int[Tensor, " K"]]:
    """Compare generated shapes with held-out and training shapes.

    A generator trained on images from all azimuths has no preferred front. The shapes are therefore rotated about the
    vertical axis by multiples of 90 degrees. Empty shapes are excluded.

    Args:
        solids: generated shapes, indexed ``[n, z, y, x]`` as in :class:`renderers.VoxelGrid`.
        reference: held-out and training shapes.
        per_shape: rotate each shape by its own multiple (:func:`nearest_quarter_turns`) instead of all by the same one
            (:func:`find_quarter_turn`).
        seed: of the points (:func:`surface_clouds`). The reference has seed 0: for shapes that may be in it, pass another
            one, or equal shapes have equal points.

    Returns:
        ``coverage``, ``mmd``, ``one_nn_accuracy`` (:func:`compare_clouds`), and the means of ``largest_piece`` and
        ``nearest_iou``, the IoU with the nearest training shape. All are NaN if all shapes are empty; the last one is left
        out if the training shapes have another resolution. The second value is the rotation of each shape that is not
        empty, in quarter turns.
    """
    names = SHAPE_METRICS if solids.shape[-1] == reference.training.size else SHAPE_METRICS[:-1]
    solids = solids[solids.flatten(1).any(1)].cpu()
    if not len(solids):
        return dict.fromkeys(names, float("nan")), torch.zeros(0, dtype=torch.long)
    clouds = surface_clouds(solids, reference.clouds.shape[1], seed)
    if per_shape:
        quarters = nearest_quarter_turns(clouds, reference.clouds)
    else:
        quarters = torch.full((len(solids),), find_quarter_turn(clouds, reference.clouds))
    turned = torch.stack([rotate_clouds(cloud, 90 * k) for cloud, k in zip(clouds, quarters.tolist(), strict=True)])
    figures = compare_clouds(turned, reference.clouds, reference.distances)
    figures["largest_piece"] = float(largest_piece(solids).mean())
    if "nearest_iou" in names:
        grids = torch.stack([solid.rot90(k, (0, 2)) for solid, k in zip(solids, quarters.tolist(), strict=True)])
        figures["nearest_iou"] = float(nearest_training_iou(grids, reference.training)[0].mean())
    return figures, quarters


def find_quarter_turn(clouds: Float[Tensor, "G P 3"], reference: Float[Tensor, "R P 3"]) -> int:
    """Return how many quarter turns about the vertical axis minimize the MMD of the clouds to the reference.

    It is measured on :data:`ALIGNMENT_SHAPES` of the clouds and :data:`ALIGNMENT_POINTS` of their points.
    """
    part, sparse = evenly_spaced(clouds, ALIGNMENT_SHAPES)[:, :ALIGNMENT_POINTS], reference[:, :ALIGNMENT_POINTS]

    def distance(quarter: int) -> float:
        return minimum_matching_distance(chamfer_matrix(rotate_clouds(part, 90 * quarter), sparse))

    return min(range(4), key=distance)


def nearest_quarter_turns(clouds: Float[Tensor, "G P 3"], reference: Float[Tensor, "R P 3"]) -> Int[Tensor, " G"]:
    """Return, for each cloud, the quarter turns about the vertical axis that bring it nearest to some reference cloud.

    Images from all azimuths do not determine which way a shape faces: a shape that is rotated about the vertical axis has
    the same images. It is measured on :data:`ALIGNMENT_POINTS` of the points.
    """
    part, sparse = clouds[:, :ALIGNMENT_POINTS], reference[:, :ALIGNMENT_POINTS]
    return torch.stack([chamfer_matrix(rotate_clouds(part, 90 * k), sparse).amin(1) for k in range(4)]).argmin(0)


def evenly_spaced(items: Any, count: int) -> Any:
    """Select at most ``count`` items of a tensor, range or :class:`PackedGrids`, evenly spaced over all of them."""
    indices = torch.linspace(0, len(items) - 1, min(count, len(items))).round().long()
    return [items[i] for i in indices.tolist()] if isinstance(items, range) else items[indices]


def _solid(source: Shapes, number: int) -> Bool[Tensor, "D D D"]:
    return source[number].voxels.occupancy[0, 0] > 0.5


def _read(source: Shapes, numbers: Sequence[int]) -> Iterator[Bool[Tensor, "D D D"]]:
    with Progress(len(numbers), "reading training shapes", "shape") as bar:
        for number in numbers:
            yield _solid(source, number)
            bar.update(1)


def _load(file: Path) -> ShapeReference | None:
    """Load a cached reference; None if the file is missing or invalid."""
    try:
        state = load_state(file)
        reference = ShapeReference(state["clouds"], state["distances"], PackedGrids(**state["training"]))
        return reference if len(reference.distances) == len(reference.clouds) else None
    except (KeyError, TypeError, ValueError, AttributeError):  # includes InputError; measure again
        return None
