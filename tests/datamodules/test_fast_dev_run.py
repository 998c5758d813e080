"""A smoke run (``fast_dev_run``) prepares only what its batches need, in a cache of its own."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import (
    ColoredRenderClassesDataModule,
    FFHQDataModule,
    HeadsDataModule,
    RenderClassesDataModule,
    ShapeNetRenderDataModule,
)
from datamodules.shapes import ProceduralShapes
from lightning_modules.depth_evaluation import FrontReferences
from renderers import OpenGLRenderer, ViewDistribution
from trainer.__main__ import main

BATCHES, BATCH = 2, 3


def parts(count: int = 1000) -> dict:
    """Return data modules of many images by name."""
    shapes = ProceduralShapes("chair", count=count, voxel_size=16)
    views = {"renderer": OpenGLRenderer(16), "views": ViewDistribution()}
    classes = {"classes": {"a": shapes, "b": shapes}, "validation_classes": {"a": shapes, "b": shapes}}
    run = {"batch_size": BATCH, "total_kimg": 1}
    return {
        "renders": ShapeNetRenderDataModule(shapes, **views, **run),
        "heads": HeadsDataModule(16, **run),
        "classes": RenderClassesDataModule(**classes, **views, **run),
        "colored": ColoredRenderClassesDataModule(**classes, **views, **run),
    }


@pytest.mark.parametrize("name", parts(1))
def test_only_the_images_of_its_batches_are_prepared(name):
    data = parts()[name]
    assert all(cache.count >= 500 and "fast_dev_run" not in cache.folder.parts for cache in data.caches())
    data.trainer = SimpleNamespace(fast_dev_run=BATCHES)
    per_cache = BATCHES * BATCH * 2 // len(data.caches())
    assert [cache.count for cache in data.caches()] == [per_cache] * len(data.caches())
    assert all("fast_dev_run" in cache.folder.parts for cache in data.caches())


def test_only_the_photographs_of_its_batches_are_read(tmp_path):
    for i in range(20):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    data = FFHQDataModule(tmp_path, 16, batch_size=BATCH, total_kimg=1)
    data.trainer = SimpleNamespace(fast_dev_run=1)
    assert [cache.count for cache in data.caches()] == [BATCH]


@pytest.mark.parametrize("name", ["renders", "heads", "photographs"])
def test_a_data_module_has_all_of_its_images_after_a_smoke_run(tmp_path, name):
    for i in range(7):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    settings = {"reference_images": 7, "batch_size": BATCH, "total_kimg": 1}
    shapes = ProceduralShapes("chair", count=7, voxel_size=16)
    make = {
        "renders": lambda: ShapeNetRenderDataModule(shapes, OpenGLRenderer(16), ViewDistribution(), **settings),
        "heads": lambda: HeadsDataModule(16, images=7, **settings),
        "photographs": lambda: FFHQDataModule(tmp_path, 16, **settings),
    }[name]
    data, unused = make(), make()
    for batches in (1, 2, 0):
        data.trainer = SimpleNamespace(fast_dev_run=batches, state=SimpleNamespace(fn="fit"))
        data.prepare_data()
        assert len(data.reference()) == (batches * BATCH or 7)
        # what an evaluation measures is the same
        assert data.reference_images == 7 and data.kid_subset == unused.kid_subset
        assert data.reference() is data.reference()  # read once
    unused.prepare_data()
    assert torch.equal(data.reference(), unused.reference()) and data.reference_key == unused.reference_key


def test_depth_is_measured_on_as_many_heads_as_the_batches_have():
    data, references = HeadsDataModule(16, batch_size=BATCH, total_kimg=1), FrontReferences()
    data.trainer = SimpleNamespace(fast_dev_run=BATCHES)
    references.of(data)
    assert references.count == BATCHES * BATCH


def test_a_small_set_is_prepared_as_a_whole():
    data = HeadsDataModule(16, images=4, reference_images=2, batch_size=8, total_kimg=1)
    data.trainer = SimpleNamespace(fast_dev_run=5)
    assert [cache.count for cache in data.caches()] == [4, 2]


@pytest.mark.slow
def test_a_smoke_run_of_a_large_experiment_takes_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNRENDER_CACHE", str(tmp_path / "cache"))
    began = time.monotonic()
    options = ["--trainer.fast_dev_run=2", "--trainer.accelerator=cpu", "--data.batch_size=2"]
    assert main(["fit", "--config", "heads.yaml", *options]) == 0
    assert time.monotonic() - began < 60
    images = [np.load(file).shape[0] for file in (tmp_path / "cache").rglob("*.npy")]
    assert images and sum(images) <= 8
    assert not (tmp_path / "runs").exists()
