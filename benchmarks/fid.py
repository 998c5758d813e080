"""Cost of FID and of the images it compares, and how much of it is neither the network's forward nor the GL draw.

    python -m benchmarks.fid [--images 10000] [--size 64] [--extractor renders_small] [--json figures.json]

Rendering: images of a voxel archive (chairs) and of procedural chairs, drawn into an empty cache, from the shapes' files
or programs to the checksummed files of images. FID: from these files, half of the images against the other half, to the
figure; KID, of the features that FID leaves, is a row of its own. Timed within are the renderer's call (upload, draw and
read back) and the extractor's call. On a machine that others use as well, set OMP_NUM_THREADS=1.
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


class Clock:
    """Adds up the seconds that one function takes."""

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
    """Rows of rendering (by source) and of FID: images a second, and the share of the time that is overhead."""
    with tempfile.TemporaryDirectory() as folder:
        chairs = ProceduralShapes("chair", count=500, voxel_size=size // 2)
        rows = []
        for name, shapes in (("archive", archive(chairs, Path(folder) / "chairs.npz")), ("procedural", chairs)):
            row, cache = rendering(shapes, images, size, Path(folder) / name)
            rows.append({"benchmark": f"render {name} chairs, {size}²", **row})
        rows += [{"benchmark": f"{extractor}, {size}²", **x} for x in distances(cache, extractor)]
    return rows


def archive(shapes: ShapeSource, path: Path) -> VoxelArchive:
    """The shapes in a file as ModelNet's are."""
    solids = np.stack([shape.voxels.occupancy[0, 0].numpy() > 0.5 for shape in shapes]).transpose(0, 3, 1, 2)
    labels = np.zeros(len(solids), np.int64)
    write_archive(path, {"train": solids, "test": solids}, {"train": labels, "test": labels}, ["chair"])
    return VoxelArchive(path, "chair")


def rendering(shapes: ShapeSource, images: int, size: int, folder: Path) -> tuple[dict[str, Any], RenderCache]:
    """Draw into an empty cache."""
    renderer = OpenGLRenderer(size, backend="moderngl")
    shape_renders(shapes, renderer, ViewDistribution(), 64, 1, str(folder / "warm"), "warming up").prepare()
    cache = shape_renders(shapes, renderer, ViewDistribution(), images, 0, str(folder), "rendering")
    draw = Clock(renderer.forward)
    object.__setattr__(renderer, "forward", draw)
    start = now()
    cache.prepare()
    return row(images, now() - start, draw.seconds), cache


def distances(cache: RenderCache, extractor: str) -> list[dict[str, Any]]:
    """From the cache's files to the figures, half against half."""
    network = load_extractor(extractor)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    half = cache.count // 2
    fid = ImageFID(network, kid_subset=min(1000, half)).to(device)
    network(torch.zeros(BATCH, *cache.shape, dtype=torch.uint8, device=device))
    forward = Clock(network.forward)
    object.__setattr__(network, "forward", forward)
    start = now()
    try:
        done = 0
        for batch in open_images(cache.folder).batches(BATCH):
            cut = min(max(0, half - done), len(batch))
            for real, part in ((True, batch[:cut]), (False, batch[cut:])):
                if len(part):
                    fid.update(part.to(device), real=real)
            done += len(batch)
    finally:
        object.__delattr__(network, "forward")
    value = fid.compute()
    middle = now()
    kid, _ = fid.kid.compute()
    return [
        row(cache.count, middle - start, forward.seconds) | {"figure": f"FID {value:.3f}"},
        {"images": cache.count, "seconds": now() - middle, "figure": f"KID {kid:.5f}, 100 × {fid.kid.subset:,}"},
    ]


def row(images: int, whole: float, inside: float) -> dict[str, Any]:
    return {"images": images, "seconds": whole, "images_per_s": images / whole, "overhead": 1 - inside / whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--extractor", default="renders_small")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    rows = run(arguments.images, arguments.size, arguments.extractor)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    from benchmarks.output import machine, show

    print(machine())
    show(rows)


if __name__ == "__main__":
    main()
