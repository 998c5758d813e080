"""Cost of an evaluation of a voxel generator and of its comparison of shapes.

The model and the data are those of demo.yaml: 1,000 generated against 1,000 real images; 100 shapes against 100 held-out
shapes with 1,024 points each, and 2,000 training shapes. Training shapes stand in for generated ones, because those of an
untrained generator are empty. Seconds are CPU time of the process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.spatial import KDTree
from torch import Tensor

from datamodules import ShapeNetRenderDataModule
from lightning_modules.voxel_generative import VoxelGenerativeModule
from metrics import ShapeReference, chamfer_matrix, compare_shapes, surface_clouds
from metrics.shape_comparison import POINTS, evenly_spaced
from trainer.cli.log_filters import quiet
from trainer.runs.loading import ExperimentConfig

CONFIG = "demo.yaml"
PAIRS = 100  # clouds whose distance to one other cloud is timed


def run() -> list[dict[str, Any]]:
    """Return rows of seconds."""
    with quiet():
        return _measure(ExperimentConfig(CONFIG, []))


def _measure(config: ExperimentConfig) -> list[dict[str, Any]]:
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
        count, module.shape_metrics = module.shape_metrics, 0
        trainer.validate(module, data, verbose=False)  # fills caches and compiles kernels
        seconds = _cpu_seconds(lambda: trainer.validate(module, data, verbose=False))
        rows = [{"part": "evaluation without compared shapes", "seconds": seconds}]
        cache = Path(folder)
        measure = partial(ShapeReference.measure, data.reference_shapes, data.shapes, count, cache_dir=cache)
        rows.append({"part": "reading the data's shapes, once per data set", "seconds": _cpu_seconds(measure)})
        rows.append({"part": "loading them from the cache, once per run", "seconds": _cpu_seconds(measure)})
        reference = measure()
    solids = evenly_spaced(reference.training, count)
    rows.append(
        {
            "part": f"comparing {count} training shapes",
            "seconds": _cpu_seconds(lambda: compare_shapes(solids, reference)),
        }
    )
    clouds = surface_clouds(solids[:1], POINTS)
    for name, distances in (("kernel", chamfer_matrix), ("k-d trees of scipy", _by_trees)):
        seconds = _cpu_seconds(partial(distances, clouds, reference.clouds[:PAIRS]))
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
