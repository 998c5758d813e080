"""The corruption table: what metrics of images and of shapes say about sets that are wrong in a known way.

    python -m benchmarks judge [--archive FILE] [--images 1000] [--seed 0] [--only NAME ...] [--json FILE]

Images of chairs, corrupted in one way per row, are compared with images of held-out chairs: FID, spatial FID (sfid),
precision, recall, density and image_coverage. The shapes are compared with held-out shapes by coverage and minimum
matching distance (mmd), and with the intact shapes by IoU with the nearest one. A good metric grows with the degree of a
corruption, and orders different corruptions as a person would. The chairs are procedural, or those of a voxel archive.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.corruptions import CORRUPTIONS, Corruption
from benchmarks.output import machine, show
from datamodules.shapes import ProceduralShapes, ShapeSource, Split, VoxelArchive
from datamodules.shapes.procedural.source import Category
from metrics import (
    EXTRACTORS,
    FeatureExtractor,
    ImageFID,
    chamfer_matrix,
    coverage,
    load_extractor,
    minimum_matching_distance,
    nearest_training_iou,
    surface_clouds,
    to_bytes,
)
from metrics.manifolds import MANIFOLD_METRICS
from renderers import Camera, InputError, OpenGLRenderer, ViewDistribution, VoxelGrid
from utils.progress import Progress

BATCH = 100
SHAPES, POINTS = 100, 512  # of coverage, MMD and IoU


class Judge:
    """Compares corrupted chairs with held-out ones.

    Args:
        images: number of images of each set, each of another shape as far as there are as many.
        extractor: features of images.
        voxel_size: voxels per edge of the shapes.
        image_size: pixels per edge of the images.
        seed: seed of the shapes, viewpoints and corruptions.
        archive: a voxel archive with z up, such as ModelNet10's, whose shapes replace the procedural ones, except boxes.

    Raises:
        InputError: fewer than two images, a ``voxel_size`` that is not a multiple of 4, or an archive that cannot be read or
            has no chairs.
    """

    def __init__(
        self,
        images: int,
        extractor: FeatureExtractor,
        voxel_size: int = 32,
        image_size: int = 64,
        seed: int = 0,
        archive: Path | None = None,
    ) -> None:
        if images < 2:
            raise InputError(f"--images must be at least 2, got {images}")
        if voxel_size % (4 * max(1, voxel_size // 32)):  # rows such as "coarse 4" divide the grid
            raise InputError(f"--voxel_size must be a multiple of 32, or of 4 below 64, got {voxel_size}")
        self.images, self.voxel_size, self.image_size, self.seed = images, voxel_size, image_size, seed
        self.archive = archive
        self.intact: dict[Category, Bool[Tensor, "N D D D"]] = {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.fid = ImageFID(extractor).to(self.device)
        held_out = self._generate("chair", "test")
        self.held_out = surface_clouds(held_out[:SHAPES], POINTS)
        self._add(self._render(Corruption(), held_out, self.seed + 1), real=True)

    def row(self, corruption: Corruption, shapes: bool = True) -> dict[str, float]:
        """Return the metrics of one set: of its images and, if ``shapes`` and they are not intact, of its shapes."""
        for category in ("chair", *corruption.categories):  # shapes of other categories are compared with chairs too
            if category not in self.intact:
                self.intact[category] = self._generate(category, "train")
        solids = corruption.solids(self.intact, self.seed)
        self.fid.reset()
        self._add(self._render(corruption, solids, self.seed), real=False)
        figures = self.fid.compute_all()
        return figures | self._shape_metrics(solids[:SHAPES]) if shapes and not corruption.image_only else figures

    def _generate(self, category: Category, split: Split) -> Bool[Tensor, "N D D D"]:
        shapes = self.source(category, split)
        solids = [shape.voxels.occupancy[0, 0] > 0.5 for shape in islice(shapes, self.images)]
        return torch.stack([solids[i % len(solids)] for i in range(self.images)])

    def source(self, category: Category, split: Split) -> ShapeSource:
        """Return the intact shapes of a category.

        Raises:
            InputError: the archive does not have the category, or no shapes of it.
        """
        if self.archive is None or category == "cubes":
            return ProceduralShapes(category, self.images, self.voxel_size, self.seed, split)
        return VoxelArchive(self.archive, category, split, voxel_size=self.voxel_size)

    def _render(self, corruption: Corruption, solids: Bool[Tensor, "N D D D"], seed: int) -> UInt8[Tensor, "N 1 S S"]:
        renderer = OpenGLRenderer(self.image_size, lighting=corruption.lighting, backend="moderngl", geometry=False)
        camera = (corruption.views or ViewDistribution()).sample(len(solids), torch.Generator().manual_seed(seed))
        batches = []
        for start in range(0, len(solids), BATCH):
            part = slice(start, start + BATCH)
            views = Camera(camera.azimuth[part], camera.elevation[part], camera.fov)
            batches.append(to_bytes(renderer(VoxelGrid(solids[part, None]), views).image))
        images = torch.cat(batches)
        return images if corruption.image is None else corruption.image(images)

    def _add(self, images: UInt8[Tensor, "N 1 S S"], real: bool) -> None:
        for batch in images.split(BATCH):
            self.fid.update(batch.to(self.device), real=real)

    def _shape_metrics(self, solids: Bool[Tensor, "N D D D"]) -> dict[str, float]:
        nonempty = solids[solids.flatten(1).any(1)]
        if not len(nonempty):
            return {}
        distances = chamfer_matrix(surface_clouds(nonempty, POINTS), self.held_out)
        return {
            "coverage": coverage(distances),
            "mmd": minimum_matching_distance(distances),
            "iou": float(nearest_training_iou(nonempty, self.intact["chair"])[0].mean()),
        }


def run(
    images: int = 1000,
    seed: int = 0,
    voxel_size: int = 32,
    image_size: int = 64,
    extractor: str = EXTRACTORS[0],
    extractor_weights: str | None = None,
    only: list[str] | None = None,
    archive: Path | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Return one row per corruption, and the description of the measurement.

    Raises:
        InputError: unknown names or invalid numbers.
    """
    if unknown := set(only or []) - set(CORRUPTIONS):
        raise InputError(f"no such corruption: {', '.join(sorted(unknown))}; use {', '.join(CORRUPTIONS)}")
    names = only or list(CORRUPTIONS)
    judge = Judge(images, load_extractor(extractor, extractor_weights), voxel_size, image_size, seed, archive)
    for category in {category for name in names for category in CORRUPTIONS[name].categories}:
        judge.source(category, "train")  # fail before the first row if the archive does not have it
    rows = []
    with Progress(len(names), "corruptions", "set") as bar:
        for name in names:
            rows.append({"set": name, **judge.row(CORRUPTIONS[name])})
            bar.update(1)
    return rows, judge.fid.describe(images, images)


def rank_correlations(rows: list[dict[str, Any]], to: str = "mmd") -> dict[str, float]:
    """Return Spearman's correlation of the metrics of images with a metric of shapes, over the rows that have both."""
    both = [row for row in rows if to in row]
    names = [name for name in ("fid", "sfid", *MANIFOLD_METRICS) if all(name in row for row in both)]
    if len(both) < 3:
        return {}
    return {name: float(spearmanr([x[name] for x in both], [x[to] for x in both]).statistic) for name in names}


def check_output(file: Path) -> None:
    """Raise an :class:`InputError` if a file cannot be written because of its path, before hours of measuring."""
    if file.is_dir() or not file.parent.is_dir():
        raise InputError(f"--json {file} is not a file in an existing directory; choose another one")


def main(argv: list[str]) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="chairs of a voxel archive with z up, as ModelNet10's"
    )
    parser.add_argument("--images", type=int, default=1000, help="images of each set (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of shapes, viewpoints and corruptions (default: 0)")
    parser.add_argument("--voxel_size", type=int, default=32, help="voxels per edge (default: 32)")
    parser.add_argument("--image_size", type=int, default=64, help="pixels per edge (default: 64)")
    parser.add_argument("--extractor", default=EXTRACTORS[0], help=f"{', '.join(EXTRACTORS)}")
    parser.add_argument("--extractor_weights", metavar="FILE", help="another file of weights for the extractor")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows to measure, such as 'stray voxels 0.1 %%'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = vars(parser.parse_args(argv))
    file = options.pop("json")
    start = time.monotonic()
    try:
        if file is not None:
            check_output(file)
        rows, note = run(**options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(machine())
    show(rows)
    if correlations := rank_correlations(rows):
        print(f"Spearman's correlation with mmd: {', '.join(f'{name} {x:.2f}' for name, x in correlations.items())}")
    print(f"{note}; {SHAPES} shapes of {POINTS} points; {time.monotonic() - start:.0f} s")
    if file is not None:
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0
