"""The order that metrics of images give to corrupted chairs, on a small version of the corruption table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.corruptions import CORRUPTIONS
from benchmarks.judge import Judge, rank_correlations
from datamodules.shapes import ProceduralShapes, write_archive
from metrics import load_extractor

MODELNET = Path(__file__).parents[1] / "../shared/data/modelnet10_voxels_32.npz"
real = pytest.mark.skipif(not MODELNET.is_file(), reason="ModelNet10 is not available")
GRADED = (
    ("training chairs", "stray voxels 0.1 %", "stray voxels 0.3 %", "stray voxels 1 %"),
    ("training chairs", "dropout 10 %", "dropout 20 %", "dropout 40 %"),
    ("training chairs", "3 floating balls", "8 floating balls"),
    ("roughness 0.6", "roughness 1", "roughness 1.5"),
    ("dilated by 1", "dilated by 2"),
    ("training chairs", "upper half shifted by 6", "upper half missing"),
    ("training chairs", "legs missing, half of them", "legs missing"),
    ("training chairs", "30 shapes", "3 shapes", "1 shape"),
    ("training chairs", "half tables", "tables"),
    ("image blur 0.5", "image blur 1", "image blur 2"),
    ("image noise 0.02", "image noise 0.05", "image noise 0.1"),
)
WORSE_THAN_STRAY_VOXELS = (
    "lower half missing",
    "upper half missing",
    "left half missing",
    "legs missing",
    "plates with the outline",
    "slices 1 of 4",
    "10 shapes",
    "3 shapes",
    "1 shape",
    "tables",
    "random boxes",
)


@pytest.fixture(scope="module", params=[None, pytest.param(MODELNET, marks=real)], ids=["procedural", "ModelNet10"])
def rows(request) -> dict[str, dict[str, float]]:
    judge = Judge(300, load_extractor("renders_small"), archive=request.param)
    names = {name for names in GRADED for name in names} | set(WORSE_THAN_STRAY_VOXELS)
    return {name: judge.row(CORRUPTIONS[name], shapes=False) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("names", GRADED, ids=lambda names: names[-1])
def test_spatial_fid_grows_with_the_damage(rows, names):
    values = [rows[name]["sfid"] for name in names]
    assert values == sorted(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORSE_THAN_STRAY_VOXELS)
def test_spatial_fid_sees_missing_parts_and_missing_variety(rows, name):
    assert rows[name]["sfid"] > rows["stray voxels 0.1 %"]["sfid"]


@pytest.mark.slow
def test_pooled_fid_does_not(rows):
    fid = {name: row["fid"] for name, row in rows.items()}
    assert max(fid["plates with the outline"], fid["10 shapes"]) < fid["stray voxels 0.1 %"]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [None], ids=["procedural"], indirect=True)
def test_precision_sees_faults_and_recall_missing_variety(rows):
    intact, stray, few = (rows[name] for name in ("training chairs", "stray voxels 1 %", "3 shapes"))
    assert intact["precision"] > 0.7 and intact["recall"] > 0.7
    assert stray["precision"] < 0.3 * intact["precision"]
    assert few["recall"] < 0.5 * intact["recall"] and few["precision"] > 0.5 * intact["precision"]
    assert stray["density"] < 0.1 * intact["density"] and stray["image_coverage"] < 0.1 * intact["image_coverage"]
    assert few["image_coverage"] < 0.85 * intact["image_coverage"] and few["density"] > 0.9 * intact["density"]


def test_corruptions_depend_on_the_seed_and_the_index_alone():
    solids = torch.zeros(4, 32, 32, 32, dtype=torch.bool)
    solids[:, 8:24, 8:24, 8:24] = True
    for name in ("stray voxels 1 %", "dropout 20 %", "3 floating balls", "roughness 1", "legs missing, half of them"):
        corruption = CORRUPTIONS[name]
        all_ = corruption.solids({"chair": solids}, 0)
        assert torch.equal(all_[:2], corruption.solids({"chair": solids[:2]}, 0)), name
        if corruption.share == 1:
            assert not torch.equal(all_[0], all_[1])
            assert not torch.equal(all_, corruption.solids({"chair": solids}, 1))


def test_few_shapes_are_as_many_as_there_are():
    solids = torch.eye(6, dtype=torch.bool).view(6, 6, 1, 1)
    assert len(CORRUPTIONS["30 shapes"].solids({"chair": solids}, 0).unique(dim=0)) == 6
    assert len(CORRUPTIONS["3 shapes"].solids({"chair": solids}, 0).unique(dim=0)) == 3


def test_rank_correlations_are_over_the_rows_with_shapes():
    rows = [{"fid": x, "sfid": -x, "mmd": x**2} for x in (1.0, 2.0, 3.0, 4.0)]
    assert rank_correlations([*rows, {"fid": 9.0, "sfid": 0.0}]) == pytest.approx({"fid": 1, "sfid": -1})
    assert rank_correlations(rows[:2]) == {}


@pytest.mark.parametrize("damage", ["upside down", "tables"])
def test_command_prints_the_table(damage, tmp_path, capsys):
    file = tmp_path / "rows.json"
    names = [damage, "image mirrored"]
    assert main(["judge", "--images", "12", "--only", *names, "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["set", "fid", "sfid", "coverage", "mmd", "iou"]
    assert printed[-1].startswith("extractor renders_small, 12 generated against 12 real images; ")
    first, second = json.loads(file.read_text())
    assert (first["set"], second["set"]) == tuple(names) and min(first["sfid"], second["sfid"]) > 0
    assert 0 < first["iou"] < 1 and "iou" not in second
    assert main(["judge", "--only", "loose screws"]) == 2
    assert capsys.readouterr().err.startswith("error: no such corruption: loose screws; use training chairs, ")
    for options, error in (
        (["--voxel_size", "30"], "error: --voxel_size must be a multiple of 32, or of 4 below 64, got 30\n"),
        (["--json", str(tmp_path)], f"error: --json {tmp_path} is not a file in an existing directory"),
        (["--json", str(tmp_path / "no" / "a.json")], "a.json is not a file in an existing directory; choose another"),
    ):
        assert main(["judge", "--images", "2", *options]) == 2
        assert error in capsys.readouterr().err


def test_shapes_of_an_archive_replace_the_procedural_ones(tmp_path, capsys):
    chairs, tables = (
        # Our (x, y, z) is the file's (x, -z, y).
        np.stack([shape.voxels.occupancy[0, 0].numpy().transpose(2, 0, 1)[:, ::-1] > 0.5 for shape in shapes])
        for shapes in (ProceduralShapes("chair", 3, 32), ProceduralShapes("table", 2, 32))
    )
    file, labels = tmp_path / "shapes.npz", {"train": np.repeat([0, 1], [3, 2]), "test": np.zeros(3, int)}
    write_archive(file, {"train": np.concatenate([chairs, tables]), "test": chairs}, labels, ["chair", "table"])
    judge = Judge(8, load_extractor("renders_small"), archive=file)
    intact = judge.row(CORRUPTIONS["training chairs"])
    assert intact["coverage"] == 1 and intact["iou"] == 1
    assert torch.equal(judge.intact["chair"][:3], judge.intact["chair"][3:6])
    assert judge.row(CORRUPTIONS["half tables"])["iou"] < 1
    assert judge.row(CORRUPTIONS["random boxes"])["mmd"] > intact["mmd"]
    for options, error in (
        (["--archive", str(file), "--only", "couches"], f"{file} has no class 'couch'; it has chair, table\n"),
        (["--archive", "absent.npz"], "no such voxel archive: "),
    ):
        assert main(["judge", *options]) == 2
        assert error in capsys.readouterr().err
