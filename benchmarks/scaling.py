"""Overhead of the framework and of several ranks, and the resources of a training: python -m benchmarks scaling.

- The step of the paper's IG-GAN at small size in ``fit`` and in a plain PyTorch loop, see :mod:`benchmarks.plain_loop`.
- The same training on 1, 2 and, with enough cores, 4 ranks with gloo, one thread each, at the same global batch.
- Steps of the large configs at full size: on a GPU with their own batch size, on a CPU with the smallest possible one.
- Bytes that each config holds and all-reduces, computed, see :mod:`benchmarks.budget`.

Takes four minutes on two cores.
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

CONFIGS = ("chairs_procedural.yaml", "chairs.yaml", "chanterelle.yaml", "heads.yaml", "ffhq.yaml")
FULL_SIZE = {"chairs.yaml": 1, "ffhq.yaml": 2}  # config to the batch size on the CPU
DEMO = {
    "model": {"init_args": {"proxy_checkpoint": None}},
    "data": {"init_args": {"images": 256, "reference_images": 16}},
}


def run(blocks: int = 8, steps: int = 14, repeats: int = 2) -> list[dict[str, Any]]:
    """Return all rows."""
    cores = len(os.sched_getaffinity(0))
    counts = [n for n in (1, 2, 4) if n <= cores]
    rows = plain_loop.run("chairs_procedural.yaml", plain_loop.BLOCK * (blocks + 1), DEMO)
    rows += training_runs.compare(
        "chairs_procedural.yaml", DEMO, batch_of("chairs_procedural.yaml"), counts, steps, repeats
    )
    rows += [full_step(config) for config in FULL_SIZE]
    return rows + [
        budget.row(config, ExperimentConfig(config, []).load_model(), batch_of(config)) for config in CONFIGS
    ]


def batch_of(config: str) -> int:
    """Return the ``batch_size`` of a config."""
    return compose([config]).values["data"]["init_args"]["batch_size"]


def full_step(config: str) -> dict[str, Any]:
    """Return a row for a step of a large config at full size, on the GPU if available. The first half of the steps is not
    counted.
    """
    gpu = torch.cuda.is_available()
    steps = 12 if gpu else 2
    batch = batch_of(config) if gpu else FULL_SIZE[config]
    with tempfile.TemporaryDirectory() as folder:
        overrides = overrides_of(config, Path(folder))
        overrides["data"]["init_args"] |= {"batch_size": batch, "num_workers": 0}
        result = training_runs.train(
            config, overrides, steps, accelerator="gpu" if gpu else "cpu", threads=os.cpu_count() or 1
        )
    device = "GPU" if gpu else "CPU"
    return {
        "benchmark": f"full size, {device}",
        "part": f"a step of {config}",
        "batch": batch,
        "seconds": statistics.median(result["seconds"][steps // 2 :]),
        "peak_GB": result["gpu_bytes" if gpu else "peak_bytes"] / 1e9,
    }


def overrides_of(config: str, folder: Path) -> dict[str, Any]:
    """Return settings for generated data and training without growth."""
    if config == "ffhq.yaml":
        data = {"root": training_runs.photographs(folder, 128), "reference_images": 2}
        model = {"growth": [{"resolution": 128, "fade_kimg": 0}], "extractor": "renders_color"}
        return {"model": {"init_args": model}, "data": {"init_args": data}}
    shapes = {"category": "chair", "count": 16, "voxel_size": 64}
    source = {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": shapes}
    data = {"shapes": source, "reference_shapes": source, "images": 64, "reference_images": 4}
    return {"model": {"init_args": {"proxy_checkpoint": None}}, "data": {"init_args": data}}
