"""``prepare``: render the caches of a config in shards."""

import pytest

from datamodules.renders.cache import RenderCache
from trainer.__main__ import main

CONFIG = """
model: {class_path: toy.ToyGAN}
data:
  class_path: datamodules.ShapeNetRenderDataModule
  init_args:
    shapes: {class_path: datamodules.shapes.ProceduralShapes, init_args: {category: chair, count: 4, voxel_size: 16}}
    renderer: {class_path: renderers.OpenGLRenderer, init_args: {image_size: 16}}
    views: {azimuth: [0, 360], elevation: [0, 30]}
    images: 12
    reference_images: 6
"""


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr("datamodules.renders.cache.SHARD", 4)


def test_shards_create_the_cache_that_fit_uses(workplace, capsys, monkeypatch):
    (workplace / "small.yaml").write_text(CONFIG)
    monkeypatch.setenv("UNRENDER_CACHE", str(workplace / "cache"))
    assert main(["prepare", "--config", "small.yaml", "--shard", "2/3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "training images: 4 rendered, 8 of 12 still missing" in first
    assert "reference images: 2 rendered, 4 of 6 still missing" in second
    for shard in ("1/3", "3/3"):
        assert main(["prepare", "--config", "small.yaml", "--shard", shard]) == 0
    assert capsys.readouterr().out.count("all 12 are complete") == 1
    monkeypatch.setattr(RenderCache, "_write", None)  # nothing is left to render
    assert main(["prepare", "--config", "small.yaml"]) == 0
    assert "0 rendered, all 12 are complete" in capsys.readouterr().out
    assert main(["prepare", "--config", "small.yaml", "--data.num_workers", "2", "--seed_everything", "3"]) == 0
    assert len(list((workplace / "cache" / "renders").glob("*/manifest.json"))) == 2


def test_a_second_config_overrides_the_first(workplace, capsys, monkeypatch, refused):
    (workplace / "small.yaml").write_text(CONFIG)
    (workplace / "fewer.yaml").write_text("data: {init_args: {images: 3}}\n")
    monkeypatch.setenv("UNRENDER_CACHE", str(workplace / "cache"))
    assert main(["prepare", "--config", "small.yaml", "--config", "fewer.yaml"]) == 0
    assert "training images: 3 rendered, all 3 are complete" in capsys.readouterr().out
    assert main(["figures", "--config", "small.yaml", "--config=fewer.yaml", "--only", "data", "--output", "f"]) == 0
    assert "small.yaml and toy.yaml: ToyData has no" in refused("prepare", "--config=small.yaml", "--config=toy.yaml")


def test_data_without_cached_renders_are_refused(workplace, refused):
    (workplace / "small.yaml").write_text(CONFIG)
    assert "is not I/N" in refused("prepare", "--config", "small.yaml", "--shard", "4/3")
    assert "--data.images needs a value" in refused("prepare", "--config", "small.yaml", "--data.images")
    assert "ToyData has no cached renders to prepare" in refused("prepare", "--config", "toy.yaml")
    assert "--config" in refused("prepare")
