"""The files and the output of a small run of the demo."""

import base64
import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from small_demo import FIT

from callbacks.metrics_log import read_metrics
from callbacks.shape_export import write_shape
from datamodules.shapes import read_binvox
from trainer.__main__ import main
from visualization.images import save_png, tile


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """Return the directory of a finished run and its output."""
    folder, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert main(FIT) == 0
    return folder / "runs" / "demo" / "001", printed.getvalue()


def test_run_directory_has_all_files_of_the_readme(run):
    folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("report.html", "metrics.jsonl", "metrics.csv", "samples", "normals", "reals.png", "fid.png", "shapes"),
        *("checkpoints", "config.yaml", "command.txt", "version.json", "run.json"),
    }
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_each_evaluation_has_a_line_in_metrics_jsonl(run):
    lines = read_metrics(run[0])
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert [line["kimg"] for line in lines] == pytest.approx([0, 0.008, 0.016])
    for line in lines:
        assert line["fid"] > 0 and 0 < line["reference_occupancy"] < 1
        assert {"occupancy", "pairwise_iou", "seconds"} <= line.keys()
        assert line["note"] == (
            "extractor renders_small, 16 generated against 16 real images, 8 shapes against as many held-out ones"
        )


def test_sample_grids_start_before_training(run):
    folder, _ = run
    for kind, mode in (("samples", "L"), ("normals", "RGB")):
        grids = sorted((folder / kind).glob("*.png"))
        assert [g.stem for g in grids] == ["000000.00kimg", "000000.01kimg", "000000.02kimg"]
        assert Image.open(grids[0]).mode == mode
    reals = np.asarray(Image.open(folder / "reals.png"))
    assert reals.std() > 10


def test_last_lines_report_the_monitored_metric_and_the_report(run):
    folder, printed = run
    lines = read_metrics(folder)
    first, last = lines[0]["sfid"], lines[-1]["sfid"]
    best = min(lines[1:], key=lambda line: line["sfid"])
    after = " after 0 kimg" if first < best["sfid"] else ""
    assert re.search(
        rf"SFID {first:.1f} at 0 kimg, {last:.1f} at 0.016 kimg, best{after} {best['sfid']:.1f} at {best['kimg']:g} kimg "
        r"\(extractor renders_small, 16 generated against 16",
        printed,
    )
    assert "report.html" in printed.splitlines()[-2]


def test_report_is_self_contained(run):
    page = (run[0] / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert page.count("data:image/png") >= 1 + 3 + 3 + 1 + 8
    glbs = re.findall(r"data:model/gltf-binary;base64,([^\"]+)\"", page)
    assert len(glbs) == 8 and all(base64.b64decode(glb)[:4] == b"glTF" for glb in glbs)
    assert "<h2>Samples</h2>" in page and "is the distance between" in page and "class_path" in page


def test_metrics_csv_has_losses(run):
    lines = (run[0] / "metrics.csv").read_text().splitlines()
    assert {"d", "g", "r", "kimg", "fid"} <= set(lines[0].split(","))


def test_validate_and_predict_use_the_run(run, capsys, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parents[2])
    run_dir = str(folder.relative_to(Path.cwd()))
    assert main(["validate", "--run_dir", run_dir]) == 0
    printed = capsys.readouterr().out
    fid = float(re.search(r"fid\W+(\d+\.\d+)", printed)[1])
    assert fid == pytest.approx(read_metrics(folder)[-1]["fid"], rel=1e-4)  # the order of sums differs
    assert (
        main(["predict", "--run_dir", run_dir, "--model.init_args.samples=3", "--model.init_args.sample_seed=1"]) == 0
    )
    shapes = folder / "predict" / "shapes"
    assert {p.name for p in shapes.glob("0002*")} == {
        *("0002.glb", "0002.obj", "0002.binvox", "0002.png", "0002_normals.png"),
    }
    assert len(list(shapes.glob("*.glb"))) == 3


def test_checkpoint_of_another_configuration_is_rejected(run, capsys, monkeypatch):
    folder, _ = run
    monkeypatch.chdir(folder.parents[2])
    bigger = ["--model.init_args.generator.init_args.width=32"]
    assert main(["validate", "--run_dir", str(folder), *bigger]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and "last.ckpt" in error[-1]


def test_shape_files_are_watertight_and_agree_across_formats(tmp_path):
    solid = np.zeros((16, 16, 16), bool)
    solid[2:5, 3:12, 1:9] = True  # z, y, x: touches nothing
    solid[0:2, 3:5, 0:4] = True  # touches the border
    write_shape(solid, tmp_path / "shape", ("glb", "obj", "binvox"))
    assert (read_binvox(tmp_path / "shape.binvox").voxels == solid).all()
    for kind in ("glb", "obj"):
        mesh = trimesh.load(tmp_path / f"shape.{kind}", force="mesh")
        assert mesh.is_watertight and mesh.volume > 0
        assert mesh.bounds[1] == pytest.approx([9 / 16 - 0.5, 12 / 16 - 0.5, 5 / 16 - 0.5], abs=0.02)
        assert mesh.bounds[0][0] == pytest.approx(-0.5, abs=0.04)


def test_empty_shape_gives_valid_files(tmp_path):
    write_shape(np.zeros((8, 8, 8), bool), tmp_path / "empty", ("glb", "obj", "binvox"))
    assert (tmp_path / "empty.glb").read_bytes()[:4] == b"glTF"
    assert not read_binvox(tmp_path / "empty.binvox").voxels.any()


def test_tile_is_in_reading_order(tmp_path):
    images = torch.arange(6).view(6, 1, 1, 1) / 10 * torch.ones(6, 1, 2, 2)
    grid = tile(images, columns=3)
    assert grid.shape == (1, 5, 8)
    assert grid[0, 0, 3].item() == pytest.approx(0.1) and grid[0, 3, 0].item() == pytest.approx(0.3)
    save_png(tmp_path / "x" / "grid.png", grid, min_width=80)
    assert Image.open(tmp_path / "x" / "grid.png").size == (80, 50)
