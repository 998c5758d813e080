"""The ``shapes`` command on a small run."""

import json
from dataclasses import replace

import pytest
import torch

from datamodules.shapes import ProceduralShapes
from metrics import compare_clouds, surface_clouds
from renderers import VoxelGrid
from trainer.__main__ import main
from trainer.commands.shape_metrics import measure
from trainer.runs.loading import load_generator

SMALL = (
    "--model=model/absorption_32.yaml",
    "--model.generator.width=16",
    "--model.discriminator.width=8",
    "--data.images=4",
    "--data.reference_images=4",
    "--data.batch_size=2",
    "--data.total_kimg=0.004",
    "--trainer.accelerator=cpu",
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("shapes") / "demo" / "001")
    assert main(["fit", "--config", "demo.yaml", "--run_dir", folder, *SMALL]) == 0
    return folder


@pytest.mark.slow
def test_metrics_of_run_and_training_shapes_are_printed(run, capsys):
    assert main(["shapes", "--run_dir", run, "--count", "4", "--points", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["generated"] == 4 and report["points"] == 64
    assert report["training"]["mmd"] > 0 and report["training"]["nearest_iou"] < 1
    assert 0 < report["run"]["largest_piece"] <= 1 and report["training"]["largest_piece"] == 1
    assert main(["shapes", "--run_dir", run, "--count", "4", "--points", "64"]) == 0
    text = capsys.readouterr().out
    assert "4 generated shapes (" in text and "each shape by the multiple of 90°" in text
    assert report["training_shapes"] == 4 and "training: 4 training shapes against the same held-out shapes" in text


@pytest.mark.slow
def test_rotated_training_shapes_give_the_metrics_of_the_training_set(run, monkeypatch):
    chairs = ProceduralShapes("chair", count=6, voxel_size=32, seed=3)
    solids = torch.stack([chairs[i].voxels.occupancy[0, 0] > 0.5 for i in range(6)])
    loaded = load_generator(run, device="cpu")
    turned = solids.rot90(1, (1, 3)).flip(0)
    monkeypatch.setattr("trainer.commands.shape_metrics._generate", lambda module, count: turned[:count])
    report = measure(loaded, chairs, chairs, 6, 256)
    assert report["rotated_degrees"] == 270  # the inverse of the rotation above
    assert report["rotations"] == {0: 0, 90: 0, 180: 0, 270: 6} and report["run_rotated"] == report["run"]
    for column in ("training", "training_rotated"):  # the held-out shapes themselves, but other points of them
        assert 0 < report[column]["mmd"] < 0.01 and report[column]["coverage"] == 1
    expected = compare_clouds(surface_clouds(solids.flip(0), 256), surface_clouds(solids, 256))
    # Points are sampled before the rotation, so they are not those of the grids that are already rotated.
    assert report["run"] == pytest.approx(expected | {"largest_piece": 1.0, "nearest_iou": 1.0}, rel=0.1)


def test_empty_shapes_are_counted_and_excluded(run, monkeypatch):
    chairs = ProceduralShapes("chair", count=4, voxel_size=32, seed=3)
    loaded = load_generator(run, device="cpu")
    monkeypatch.setattr("trainer.commands.shape_metrics._generate", lambda module, n: torch.zeros(n, 32, 32, 32).bool())
    report = measure(loaded, chairs, chairs, points=64)  # 100 shapes, or all if there are fewer
    assert report["generated"] == 4
    assert report["empty"] == 4 and "run" not in report


def test_invalid_runs_and_counts_are_rejected(run, tmp_path, capsys):
    assert main(["shapes", "--run_dir", str(tmp_path)]) == 2
    assert main(["shapes", "--run_dir", run, "--count", "9999"]) == 2
    error = capsys.readouterr().err
    assert "is more than the" in error and "held-out shapes" in error and "Traceback" not in error


class PartlyEmpty(ProceduralShapes):
    """Chairs, every other one empty."""

    def cache_key(self):
        return f"partly empty {super().cache_key()}"

    def __getitem__(self, index):
        shape = super().__getitem__(index)
        return shape if index % 2 else replace(shape, voxels=VoxelGrid(torch.zeros_like(shape.voxels.occupancy)))


@pytest.mark.slow
def test_sets_are_of_one_size_if_held_out_shapes_are_empty(run, monkeypatch):
    held_out, training = (kind("chair", count=6, voxel_size=32) for kind in (PartlyEmpty, ProceduralShapes))
    solids = torch.stack([training[i].voxels.occupancy[0, 0] > 0.5 for i in range(6)])
    monkeypatch.setattr("trainer.commands.shape_metrics._generate", lambda module, count: solids[:count])
    report = measure(load_generator(run, device="cpu"), held_out, training, 6, 64)
    assert report["generated"] == 3 and sum(report["rotations"].values()) == 3
    assert report["training"]["nearest_iou"] == 1  # of the held-out shapes that are not empty
