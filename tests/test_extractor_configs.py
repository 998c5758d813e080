"""Classifiers for the extractor ``renders``: from shapes to a run, and from the run to FID's features."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import ShapeNetClassesDataModule
from datamodules.renders.labelled import LARGEST_CLASSES
from datamodules.shapes import write_archive, write_binvox
from metrics import load_extractor
from metrics.extractors import WEIGHTS
from renderers import InputError, OpenGLRenderer, ViewDistribution
from trainer.__main__ import main

MODELNET = ["bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet"]
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.val_check_interval=1.0",
    "--model.init_args.classifier.init_args.image_size=75",
    "--data.init_args.batch_size=3",
    "--data.init_args.total_kimg=0.006",
    "--data.init_args.images_per_class=2",
    "--data.init_args.validation_images_per_class=1",
]


@pytest.fixture(scope="module")
def shapenet(tmp_path_factory) -> Path:
    """A ShapeNetCore.v2 of boxes with ten models per category; two cellphones are also telephones, a couch a chair."""
    root = tmp_path_factory.mktemp("shapenet") / "ShapeNetCore.v2"
    for number, synset in enumerate(synset for synsets in LARGEST_CLASSES.values() for synset in synsets):
        names = [f"{synset}-{i}" for i in range(10)]
        if synset == "02992529":
            names[:2] = ["04401088-0", "04401088-1"]
        if synset == "04256520":
            names[0] = "03001627-0"
        for name in names:
            file = root / synset / name / "models" / "model_normalized.solid.binvox"
            file.parent.mkdir(parents=True)
            solid = np.zeros((16,) * 3, bool)
            solid[4:12, 2 : 4 + number % 10, 5:11] = True
            write_binvox(file, solid)
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "voxels.npz"
    voxels = np.zeros((10, 16, 16, 16), bool)
    voxels[:, 4:12, 4:12, 4:10] = True
    labels = np.arange(10)
    write_archive(path, {"train": voxels, "test": voxels}, {"train": labels, "test": labels}, MODELNET)
    return path


def test_shapenet_has_21_classes_without_shared_models(shapenet):
    data = ShapeNetClassesDataModule(shapenet, OpenGLRenderer(16), ViewDistribution(), 16, test_fraction=0.5)
    assert len(data.class_names) == 21 and "cellphone" not in data.class_names

    def names(name):
        sources = data.classes[name], data.validation_classes[name]
        return [source.name(i) for source in sources for i in range(len(source))]

    telephones = names("telephone")
    assert len(telephones) == len(set(telephones)) == 18
    assert {"04401088-0", "02992529-9"} <= set(telephones)
    assert len(names("chair")) == len(names("couch")) == 9
    assert "03001627-0" not in names("chair") + names("couch")


def test_mismatched_classes_raise(shapenet, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["fit", "--config=extractor_renders.yaml", *SMALL, f"--data.init_args.root={shapenet}"]
    argv += ["--data.init_args.voxel_size=16", "--data.init_args.test_fraction=0.5"]
    argv += ["--data.init_args.renderer.init_args.image_size=16", "--trainer.fast_dev_run=1"]
    assert main([*argv, "--model.init_args.classifier.init_args.classes=[airplane,boat]"]) == 2
    assert "the classifier has 2 classes and the data 21; they differ in bathtub, bench" in capsys.readouterr().err


def test_shapenet_trains_and_evaluates(shapenet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["fit", "--config=extractor_renders.yaml", *SMALL, f"--data.init_args.root={shapenet}"]
    argv += ["--data.init_args.voxel_size=16", "--data.init_args.test_fraction=0.5"]
    argv += ["--data.init_args.renderer.init_args.image_size=16", "--trainer.fast_dev_run=2"]
    assert main(argv) == 0


@pytest.mark.slow
def test_modelnet_extractor_trains_and_exports(archive, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["fit", "--config=extractor_renders_modelnet.yaml", *SMALL, f"--data.init_args.path={archive}"]
    assert main(argv) == 0
    run = Path("runs/extractor_renders_modelnet/001")
    capsys.readouterr()
    assert main(["export-extractor", str(run), "weights/mine.pt"]) == 0
    assert "% on held-out renders" in capsys.readouterr().out
    extractor = load_extractor("renders", "weights/mine.pt")
    assert extractor.network.classes == MODELNET and extractor.network.image_size == 75
    trained = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(extractor.network.fc.weight, trained["classifier.fc.weight"].double())
    assert extractor(torch.zeros(2, 1, 64, 64, dtype=torch.uint8)).shape == (2, 2048)


@pytest.mark.slow
def test_color_extractor_trains_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.commands.export_extractor.WEIGHTS", tmp_path)
    small = [word for word in SMALL if "image_size" not in word]
    assert main(["fit", "--config=extractor_color.yaml", *small]) == 0
    capsys.readouterr()
    assert main(["export-extractor", "runs/extractor_color/001"]) == 0
    printed = capsys.readouterr().out
    assert "renders_color.pt: 0.52 MB, accuracy background " in printed and "%, texture " in printed
    extractor = load_extractor("renders_color", tmp_path / "renders_color.pt")
    assert extractor.sees_color and len(extractor.network.classes) == 18 + 17 + 10 + 4
    metrics = Path("runs/extractor_color/001/metrics.csv").read_text()
    assert all(f"val_accuracy_{name}" in metrics for name in ("background", "color", "shape", "texture"))


def test_missing_run_is_not_exported(tmp_path, capsys):
    assert main(["export-extractor", str(tmp_path), str(tmp_path / "out.pt")]) == 2
    error = capsys.readouterr().err
    assert "last.ckpt cannot be loaded: No such file or directory; pass a finished run of a classifier" in error
    assert main(["export-extractor"]) == 2
    assert not (tmp_path / "out.pt").exists()


def test_export_extractor_replaces_weights_of_extractors_only(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    shutil.copy(WEIGHTS / "renders_small.pt", tmp_path / "old.pt")
    for name, message in (
        ("notes.txt", "exists and is not a file of extractor weights; pass another FILE"),
        ("old.pt", "last"),
    ):
        assert main(["export-extractor", str(tmp_path), str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_merged_shapes():
    from datamodules.shapes import MergedShapes, ProceduralShapes

    chairs, tables = (ProceduralShapes(name, count=3, voxel_size=16) for name in ("chair", "table"))
    both = MergedShapes([chairs, tables, chairs])
    assert len(both) == 6 and [both.name(i) for i in (0, 3)] == [chairs.name(0), tables.name(0)]
    assert torch.equal(both[4].voxels.occupancy, tables[1].voxels.occupancy)
    assert both.cache_key() != MergedShapes([chairs, tables], without=[chairs]).cache_key()
    with pytest.raises(InputError, match="one voxel_size"):
        MergedShapes([chairs, ProceduralShapes("table", count=3, voxel_size=32)])
    colored = ProceduralShapes("table", count=3, voxel_size=16, colored=True)
    assert MergedShapes([colored]).colored and not both.colored
    with pytest.raises(InputError, match="all have colours, or none"):
        MergedShapes([chairs, colored])
    with pytest.raises(InputError, match="no shapes that are not excluded"):
        len(MergedShapes([chairs], without=[chairs]))
