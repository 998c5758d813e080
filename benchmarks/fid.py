"""Cost of FID and of rendering its images, and the share that is spent outside the network and outside OpenGL.

    python -m benchmarks.fid [--images 10000] [--size 64] [--extractor renders_small] [--json figures.json]

Rendering: images of a voxel archive (chairs) and of procedural chairs are rendered into an empty cache. This includes
loading or generating the shapes and writing the checksummed image files. FID: one half of these files against the other;
what spatial FID, KID, precision, recall, density and coverage add, which share FID's forward pass, is in separate rows. The
renderer's call (upload, draw and read back) and the extractor's call are timed separately; the rest is overhead. On a shared
machine set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.images.image_set import open_images
from datamodules.renders.cache import RenderCache
from datamodules.renders.shapenet import shape_renders
from datamodules.shapes import ProceduralShapes, ShapeSource, VoxelArchive, write_archive
from metrics import ImageFID, load_extractor
from renderers import OpenGLRenderer, ViewDistribution

BATCH = 32


class Timer:
    """Wraps a function and adds up the seconds that its calls take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = now()
        result = self.function(*args, **kwargs)
        self.seconds += now() - start
        return result


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run(images: int = 10_000, size: int = 64, extractor: str = "renders_small") -> list[dict[str, Any]]:
    """Return rows of rendering (by source) and of FID: images per second and the share of overhead."""
    with tempfile.TemporaryDirectory() as folder:
        chairs = ProceduralShapes("chair", count=500, voxel_size=size // 2)
        rows = []
        for name, shapes in (("archive", archive(chairs, Path(folder) / "chairs.npz")), ("procedural", chairs)):
            row, cache = rendering(shapes, images, size, Path(folder) / name)
            rows.append({"benchmark": f"render {name} chairs, {size}²", **row})
        rows += [{"benchmark": f"{extractor}, {size}²", **x} for x in distances(cache, extractor)]
    return rows


def archive(shapes: ShapeSource, path: Path) -> VoxelArchive:
    """Write shapes to a voxel archive like ModelNet's."""
    solids = np.stack([shape.voxels.occupancy[0, 0].numpy() > 0.5 for shape in shapes]).transpose(0, 3, 1, 2)
    labels = np.zeros(len(solids), np.int64)
    write_archive(path, {"train": solids, "test": solids}, {"train": labels, "test": labels}, ["chair"])
    return VoxelArchive(path, "chair")


def rendering(shapes: ShapeSource, images: int, size: int, folder: Path) -> tuple[dict[str, Any], RenderCache]:
    """Render into an empty cache."""
    renderer = OpenGLRenderer(size, backend="moderngl")
    shape_renders(shapes, renderer, ViewDistribution(), 64, 1, str(folder / "warm"), "warming up").prepare()
    cache = shape_renders(shapes, renderer, ViewDistribution(), images, 0, str(folder), "rendering")
    render = Timer(renderer.forward)
    object.__setattr__(renderer, "forward", render)
    start = now()
    cache.prepare()
    return row(images, now() - start, render.seconds), cache


def distances(cache: RenderCache, extractor: str) -> list[dict[str, Any]]:
    """Measure the metrics of one half of the cached images against the other."""
    network = load_extractor(extractor)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = cache.count // 2
    fid = ImageFID(network, kid_subset=min(1000, half)).to(device)
    network(torch.zeros(BATCH, *cache.shape, dtype=torch.uint8, device=device))
    forward = Timer(network.forward)
    object.__setattr__(network, "forward", forward)
    start = now()
    try:
        done = 0
        for batch in open_images(cache.folder).batches(BATCH):
            reals = min(max(0, half - done), len(batch))
            for real, part in ((True, batch[:reals]), (False, batch[reals:])):
                if len(part):
                    fid.update(part.to(device), real=real)
            done += len(batch)
    finally:
        object.__delattr__(network, "forward")
    value = fid.compute()
    rows = [row(cache.count, now() - start, forward.seconds) | {"figure": f"FID {value:.3f}"}]

    def add(metric: str, compute: Callable[[], str]) -> None:
        start = now()
        figure = compute()
        rows.append({"metric": metric, "images": cache.count, "seconds": now() - start, "figure": figure})

    assert fid.kid is not None
    subset, kid, manifolds = fid.kid.subset, fid.kid, fid.manifolds
    add("sFID", lambda: f"sFID {float(fid.spatial.compute()):.3f}")
    names = "precision, recall, density and coverage"
    add(names, lambda: ", ".join(f"{name} {x:.3f}" for name, x in manifolds.compute().items()))
    add("KID", lambda: f"KID {kid.compute()[0]:.5f}, 100 × {subset:,}")
    return rows


def row(images: int, total: float, timed: float) -> dict[str, Any]:
    return {"images": images, "seconds": total, "images_per_s": images / total, "overhead": 1 - timed / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--extractor", default="renders_small")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    rows = run(arguments.images, arguments.size, arguments.extractor)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    from benchmarks.output import machine, show

    print(machine())
    show(rows)


if __name__ == "__main__":
    main()
