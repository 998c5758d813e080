"""What decides whether MeshGAN's heads are convex or hollow: short runs from several starts, renderers and fields of view.

    python -m benchmarks initial_shape [--size 32] [--start 16] [--kimg 8] [--seeds 0 1] [--only CELL ...] [--runs DIR]

Each cell is one ``fit`` of ``heads.yaml`` in ``DIR/<size>_from_<start>/<cell>``, one after the other. It grows from
``--start`` to ``--size`` as ``heads.yaml`` does, 20 kimg at each resolution; with equal sizes it does not grow. Run the same
command again to resume; finished runs are not repeated. The table lists the last evaluation of each run: ``hollow_rate`` is
the fraction of samples that are inside out, ``depth_scale`` the factor from generated to true relief, negative if it is
inverted (``metrics/depth.py``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.output import show
from callbacks.metrics_log import read_metrics
from trainer.runs.child_processes import run_trainer

FLAT, DOME, DENT = (f"--model.generator.initial_bulge={bulge}" for bulge in (0.0, 0.3, -0.3))
WIDE = ("--model.views.fov=40", "--data.views.fov=40")
CULLED = "--model.renderer.cull_backfaces=true"
CELLS: dict[str, tuple[str, ...]] = {
    "flat": (FLAT,),
    "dome": (DOME,),
    "dent": (DENT,),
    "flat_fov40": (FLAT, *WIDE),
    "flat_culled": (FLAT, CULLED),
    "flat_margin3": (FLAT, "--model.renderer.margin=3"),
    "dent_fov40": (DENT, *WIDE),
    "dent_culled": (DENT, CULLED),
}
COLUMNS = ("kimg", "fid", "hollow_rate", "depth_scale", "depth_correlation", "normal_error", "silhouette_iou")


def command(cell: str, size: int, start: int, kimg: float, seed: int, images: int, run: Path) -> list[str]:
    """Return the arguments of the ``fit`` of a cell."""
    sizes = [start << i for i in range((size // start).bit_length())]
    growth = [{"resolution": n, "fade_kimg": 10 if i else 0, "stable_kimg": 20} for i, n in enumerate(sizes)]
    return [
        *("fit", "--config", "heads.yaml", f"--run_dir={run}", f"--seed_everything={seed}"),
        *(f"--model.generator.image_size={size}", f"--model.discriminator.resolution={size}"),
        *(f"--model.renderer.image_size={size}", f"--data.image_size={size}"),
        f"--model.growth={json.dumps(growth)}",
        *(f"--data.total_kimg={kimg:g}", "--trainer.val_check_interval=0.5"),
        *(f"--data.images={images}", f"--data.reference_images={min(images, 1000)}"),
        *CELLS[cell],
    ]


def rows(runs: dict[str, Path]) -> list[dict[str, Any]]:
    """Return the last evaluation of each run that has one."""
    table = []
    for name, run in runs.items():
        if lines := read_metrics(run):
            table.append({"cell": name} | {column: lines[-1].get(column) for column in COLUMNS})
    return table


def main(argv: list[str]) -> int:
    """Train what is missing and print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks initial_shape", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32, help="pixels per edge of the images (default: 32)")
    parser.add_argument("--start", type=int, default=16, help="pixels per edge at the start (default: 16)")
    parser.add_argument("--kimg", type=float, default=8.0, help="length of each run in thousand images (default: 8)")
    parser.add_argument("--images", type=int, default=4000, help="number of training images (default: 4000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="default: 0")
    parser.add_argument("--only", nargs="+", default=list(CELLS), choices=list(CELLS), metavar="CELL", help="cells")
    parser.add_argument("--runs", type=Path, default=Path("runs/initial_shape"), metavar="DIR", help="runs' directory")
    given = parser.parse_args(argv)
    runs = {}
    for seed in given.seeds:
        for cell in given.only:
            name = f"{cell}-seed{seed}" if seed else cell
            runs[name] = given.runs / f"{given.size}_from_{given.start}" / name
            words = command(cell, given.size, given.start, given.kimg, seed, given.images, runs[name])
            if status := run_trainer(words):
                return status
    show(rows(runs))
    return 0
