"""What the framework and the number of ranks cost, and what a training needs: python -m benchmarks scaling.

- IG-GAN's step at the demo's size by ``fit`` and by a plain PyTorch loop, see :mod:`benchmarks.plain_loop`.
- The demo on 1, 2 and, where there are so many cores, 4 ranks by gloo, one thread each, at the same global batch.
- Steps of the large configs at full size: on a GPU their own batch, on a CPU as small a one as they take.
- Bytes that each config keeps and sends, computed, see :mod:`benchmarks.budget`.

Four minutes on two cores.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import budget, plain_loop, training_runs
from trainer.cli.config_composition import compose
from trainer.runs.loading import ExperimentConfig

CONFIGS = ("demo.yaml", "chairs.yaml", "chanterelle.yaml", "heads.yaml", "ffhq.yaml")
FULL_SIZE = {"chairs.yaml": 1, "ffhq.yaml": 2}  # and the batch of a step on the CPU
DEMO = {
    "model": {"init_args": {"proxy_checkpoint": None}},
    "data": {"init_args": {"images": 256, "reference_images": 16}},
}


def run(blocks: int = 8, steps: int = 14, repeats: int = 2) -> list[dict[str, Any]]:
    """All rows."""
    cores = len(os.sched_getaffinity(0))
    counts = [n for n in (1, 2, 4) if n <= cores]
    rows = plain_loop.run("demo.yaml", plain_loop.BLOCK * (blocks + 1), DEMO)
    rows += training_runs.compare("demo.yaml", DEMO, batch_of("demo.yaml"), counts, steps, repeats)
    rows += [full_step(config) for config in FULL_SIZE]
    return rows + [
        budget.row(config, ExperimentConfig(config, []).load_model(), batch_of(config)) for config in CONFIGS
    ]


def batch_of(config: str) -> int:
    """Its ``batch_size``."""
    return compose([config]).values["data"]["init_args"]["batch_size"]


def full_step(config: str) -> dict[str, Any]:
    """A step of a large config with all networks at their size, on the GPU if there is one; the later half counts."""
    gpu = torch.cuda.is_available()
    steps = 12 if gpu else 2
    batch = batch_of(config) if gpu else FULL_SIZE[config]
    with tempfile.TemporaryDirectory() as folder:
        overrides = _overrides(config, Path(folder))
        overrides["data"]["init_args"] |= {"batch_size": batch, "num_workers": 0}
        found = training_runs.train(
            config, overrides, steps, accelerator="gpu" if gpu else "cpu", threads=os.cpu_count() or 1
        )
    device = "GPU" if gpu else "CPU"
    return {
        "benchmark": f"full size, {device}",
        "part": f"a step of {config}",
        "batch": batch,
        "seconds": statistics.median(found["seconds"][steps // 2 :]),
        "peak_GB": found["gpu_bytes" if gpu else "peak_bytes"] / 1e9,
    }


def _overrides(config: str, folder: Path) -> dict[str, Any]:
    """Data that are at hand, and no growth."""
    if config == "ffhq.yaml":
        data = {"root": training_runs.photographs(folder, 128), "reference_images": 2}
        return {"model": {"init_args": {"growth": [{"resolution": 128, "fade_kimg": 0}]}}, "data": {"init_args": data}}
    shapes = {"category": "chair", "count": 16, "voxel_size": 64}
    source = {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": shapes}
    data = {"shapes": source, "reference_shapes": source, "images": 64, "reference_images": 4}
    return {"model": {"init_args": {"proxy_checkpoint": None}}, "data": {"init_args": data}}
