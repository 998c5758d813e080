"""Cost of an evaluation of a voxel generator, with and without the comparison of shapes, and of its parts.

The model and the data are those of demo.yaml, with an untrained generator: 1,000 generated against 1,000 real images, 100
generated against 100 held-out shapes with 1,024 points each, 2,000 training shapes. Seconds are CPU time of the process, so
that other processes do not matter; with one thread they are wall time on a free core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.spatial import KDTree
from torch import Tensor

from datamodules import ShapeNetRenderDataModule
from lightning_modules.generative import VoxelGenerativeModule
from metrics import ShapeReference, chamfer_matrix, compare_shapes, surface_clouds
from metrics.shape_comparison import POINTS
from trainer.runs.loading import ExperimentConfig

CONFIG = "demo.yaml"
PAIRS = 100  # clouds whose distance to one other cloud is timed


def run() -> list[dict[str, Any]]:
    """Return rows of seconds."""
    config = ExperimentConfig(CONFIG, [])
    module = cast(VoxelGenerativeModule, config.load_model())
    data = cast(ShapeNetRenderDataModule, config.load_data())
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        count, rows = module.shape_metrics, []
        for shapes in (0, count):
            module.shape_metrics = shapes
            trainer.validate(module, data, verbose=False)  # fills caches and compiles kernels
            seconds = _cpu_seconds(lambda: trainer.validate(module, data, verbose=False))
            rows.append({"part": f"evaluation with {shapes} compared shapes", "seconds": seconds})
        cache = Path(folder)
        measure = lambda: ShapeReference.measure(data.reference_shapes, data.shapes, count, cache_dir=cache)  # noqa: E731
        rows.append({"part": "reading the data's shapes, once per data set", "seconds": _cpu_seconds(measure)})
        rows.append({"part": "loading them from the cache, once per run", "seconds": _cpu_seconds(measure)})
        reference = measure()
    solids = torch.cat(
        [module.shapes(module.latents(10, "benchmark", i)).occupancy[:, 0] > 0.5 for i in range(count // 10)]
    )
    rows.append({"part": "comparing shapes", "seconds": _cpu_seconds(lambda: compare_shapes(solids, reference))})
    clouds = surface_clouds(solids[:1], POINTS)
    for name, distances in (("kernel", chamfer_matrix), ("k-d trees of scipy", _by_trees)):
        seconds = _cpu_seconds(lambda distances=distances: distances(clouds, reference.clouds[:PAIRS]))
        rows.append({"part": f"Chamfer distances of {PAIRS} pairs, {name}", "seconds": seconds})
    return rows


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _by_trees(a: Tensor, b: Tensor) -> Tensor:
    first, second = ([(cloud, KDTree(cloud)) for cloud in clouds.numpy()] for clouds in (a, b))

    def one_way(x: np.ndarray, tree: KDTree) -> float:
        return float(np.square(tree.query(x)[0]).mean())

    return torch.tensor([[one_way(x, s) + one_way(y, t) for y, s in second] for x, t in first])
