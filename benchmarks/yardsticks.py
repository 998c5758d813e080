"""Reference values for FID on real chairs: the floor, and FID of other shapes.

python -m benchmarks.yardsticks --archive modelnet10_voxels_32.npz [--fid FID_OF_A_RUN]

Compares renders of training chairs (the floor), tables and random cubes with renders of the test chairs, at 64² and from
the viewpoints of chairs_modelnet.yaml.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.output import machine, show
from datamodules.renders.shapenet import VoxelCache, render_shapes
from datamodules.shapes import ProceduralShapes, ShapeSource, VoxelArchive
from metrics import ImageFID, load_extractor
from renderers import OpenGLRenderer, ViewDistribution


def run(archive: str, count: int = 2000, fid_of_run: float | None = None) -> list[dict[str, Any]]:
    """Return one row per kind of shapes: FID of ``count`` renders against ``count`` renders of the test chairs."""
    renderer = OpenGLRenderer(64, backend="moderngl")
    fid = ImageFID(load_extractor("renders_small"))
    sources: dict[str, ShapeSource] = {
        "test chairs (reference)": VoxelArchive(archive, "chair", "test"),
        "training chairs: the floor": VoxelArchive(archive, "chair", "train"),
        "tables": VoxelArchive(archive, "table", "train"),
        "random cubes": ProceduralShapes("cubes", count=1000, voxel_size=32),
    }
    rows = []
    for seed, (name, shapes) in enumerate(sources.items()):
        solids = VoxelCache(shapes)
        for start in range(0, count, 100):
            indices = list(range(start, min(start + 100, count)))
            images = torch.from_numpy(render_shapes(solids, renderer, ViewDistribution(), seed, indices))
            fid.update(images, real=seed == 0)
        if seed:
            rows.append({"images": name, "FID": fid.compute()})
            fid.reset()
    if fid_of_run is not None:
        rows.append({"images": "the run", "FID": fid_of_run})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--fid", type=float, help="FID of a run to add to the table")
    arguments = parser.parse_args()
    print(machine())
    show(run(arguments.archive, arguments.count, arguments.fid))
    print(f"extractor renders_small, {arguments.count:,} images of each against as many of the test chairs")
