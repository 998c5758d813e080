"""``python -m trainer table --gather``: what a table states about existing runs."""

import csv
import json
from pathlib import Path

import pytest
from table_runs import NOTE, SMALL, TABLE3, read_table, write_proxy, write_run

from trainer.__main__ import main
from trainer.tables import runner
from trainer.tables.spec import load_scale, load_table
from utils.errors import InputError


def test_gather_writes_finished_and_unfinished_cells(capsys):
    write_run("fixed-cubes", 61.25)
    write_run("retrained-cubes", 41.5)
    write_run("fixed-tables", None, status="interrupted")
    write_run("fixed-chairs", None, status="running")
    write_run("iggan-chairs_one", 40.0, table="table1")
    assert main([*TABLE3, "--gather"]) == 0
    rows = read_table("runs/tables/table3_small/table3.md")
    assert rows[0][1:] == ["Pre-trained on, Chairs", "Pre-trained on, Tables", "Pre-trained on, Random cubes"]
    assert rows[1] == ["Retrained (ours)", "not run (22.6)", "40.0 (20.7)", "**41.5** (20.4)"]
    assert rows[2] == ["Fixed", "running, 2 of 8 kimg (37.8)", "interrupted, 2 of 8 kimg (105.8)", "61.2 (141.9)"]
    text = capsys.readouterr().out
    assert f"(small scale): 32³ voxels, 64² images, 8 kimg, procedural shapes, seed 0, {NOTE}." in text
    assert "Compare the ranking" in text
    text = Path("runs/tables/table3_small/table3.csv").read_text()
    lines = {row["cell"]: row for row in csv.DictReader(text.splitlines())}
    assert lines["retrained-tables"]["run"] == "table1_small/iggan-chairs_one"
    assert (lines["fixed-cubes"]["fid"], lines["fixed-cubes"]["paper"]) == ("61.25", "141.9")
    assert (lines["fixed-tables"]["fid"], lines["fixed-tables"]["state"]) == ("", "interrupted, 2 of 8 kimg")
    assert Path("runs/tables/table3_small/table3.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*TABLE3, "--gather", "--only", "retrained-c", "--only=fixed-cubes"]) == 0
    assert read_table("runs/tables/table3_small/table3.md")[1][1:] == ["not run (22.6)", "**41.5** (20.4)"]


def test_seeds_are_averaged_if_all_are_finished(capsys):
    write_run("fixed-cubes", 60.0)
    write_run("fixed-cubes-seed1", 64.0)
    write_run("retrained-cubes", 40.0)
    assert main([*TABLE3, "--gather", "--only=cubes", "--seeds=0,1"]) == 0
    rows = read_table("runs/tables/table3_small/table3.md")
    assert [row[1] for row in rows[1:]] == ["seed 1: not run (20.4)", "62.0 ± 2.8 (141.9)"]
    assert "seeds 0 and 1" in capsys.readouterr().out


def test_spatial_fid_is_shown_beside_fid_if_all_seeds_have_it(capsys):
    write_run("fixed-cubes", 60.0, sfid=100.0)
    write_run("fixed-cubes-seed1", 64.0, sfid=110.0)
    write_run("retrained-cubes", 40.0, sfid=90.0)
    write_run("retrained-cubes-seed1", 40.0)
    assert main([*TABLE3, "--gather", "--only=cubes", "--seeds=0,1"]) == 0
    rows = read_table("runs/tables/table3_small/table3.md")
    assert [row[1] for row in rows[1:]] == ["**40.0 ± 0.0** (20.4)", "62.0 ± 2.8 / 105.0 ± 7.1 (141.9)"]
    assert "mean ± standard deviation over the seeds; FID / spatial FID." in capsys.readouterr().out
    text = Path("runs/tables/table3_small/table3.csv").read_text()
    assert [row["sfid"] for row in csv.DictReader(text.splitlines())] == ["90.0", "", "100.0", "110.0"]


def test_caption_states_counts_and_pretraining(capsys, refused):
    package = "datamodules.shapes"
    archive = {"class_path": f"{package}.VoxelArchive", "init_args": {"path": "net10.npz", "category": "table"}}
    cubes = {"class_path": f"{package}.ProceduralShapes", "init_args": {"category": "cubes"}}
    tables, boxes = write_proxy("proxy_tables_32", archive), write_proxy("proxy_cubes_32", cubes)
    write_run("fixed-tables", 61.0, proxy=tables, counts={"images": 3556, "models": 889})
    write_run("fixed-cubes", 60.0, proxy=boxes, counts={"images": "unlimited", "models": 889})
    write_run("retrained-cubes", 41.5, proxy=boxes, counts={"images": "unlimited", "models": 889})
    assert main([*TABLE3, "--gather"]) == 0
    text = capsys.readouterr().out
    assert "The neural renderer is pre-trained on tables of net10.npz, procedural cubes." in text
    assert (
        "Training images: Pre-trained on, Tables: 3,556 of 889 models; Pre-trained on, Random cubes: unlimited" in text
    )
    write_run("fixed-chairs", 1.0, proxy="gone/last.ckpt")
    assert main([*TABLE3, "--gather"]) == 0
    assert "pre-trained on unknown shapes (gone/last.ckpt is missing), tables of net10.npz" in capsys.readouterr().out
    other = {**archive, "init_args": {"path": "other.npz", "category": "table"}}
    write_run("iggan-chairs_one", 40.0, table="table1", proxy=write_proxy("other", other))
    assert "pre-trained differently and cannot be combined" in refused(*TABLE3, "--gather")


def test_runs_on_other_numbers_of_images_are_not_combined(refused):
    write_run("fixed-cubes", 60.0, counts={"images": 100, "models": 100})
    write_run("retrained-cubes", 41.5, counts={"images": 200, "models": 200})
    message = refused(*TABLE3, "--gather")
    assert "trained differently and cannot be combined in one table: 200 of 200 models (retrained-cubes)" in message


def test_shape_metrics_are_a_second_table():
    shapes = {"coverage": 0.3, "mmd": 0.012, "one_nn_accuracy": 0.95, "largest_piece": 0.9, "nearest_iou": 0.35}
    write_run("fixed-cubes", 60.0, **shapes)
    write_run("fixed-cubes-seed1", 64.0, **shapes | {"coverage": 0.4, "mmd": float("nan")})  # all shapes are empty
    write_run("retrained-cubes", 40.0)
    assert main([*TABLE3, "--gather", "--only=cubes", "--seeds=0,1"]) == 0
    rows = read_table("runs/tables/table3_small/table3.md", 1)
    assert rows[-2][:4] == ["", "", "coverage", "MMD"]
    assert rows[-1] == [
        *["Fixed", "Pre-trained on, Random cubes", "0.350 ± 0.071", "–"],
        *["0.950 ± 0.000", "0.900 ± 0.000", "0.350 ± 0.000"],
    ]
    caption = Path("runs/tables/table3_small/table3.md").read_text().splitlines()[-1]
    assert "A dash: all shapes of a run are empty" in caption
    text = Path("runs/tables/table3_small/table3.csv").read_text()
    assert [row["coverage"] for row in csv.DictReader(text.splitlines())] == ["", "", "0.3", "0.4"]
    assert main([*TABLE3, "--gather", "--only=fixed-cubes"]) == 0
    assert read_table("runs/tables/table3_small/table3.md", 1)[-1][2:5] == ["0.300", "0.0120", "0.950"]


def test_other_image_metrics_are_a_table_before_that_of_shapes():
    images = {"precision": 0.8, "recall": 0.5, "density": 1.25, "image_coverage": 0.75}
    shapes = {"coverage": 0.3, "mmd": 0.012, "one_nn_accuracy": 0.95, "largest_piece": 0.9}  # of another resolution
    write_run("fixed-cubes", 60.0, **images, **shapes, kid=0.1)
    write_run("fixed-cubes-seed1", 64.0, **images | {"density": 1.0}, **shapes)
    write_run("retrained-cubes", 40.0, **images)
    write_run("retrained-cubes-seed1", 40.0)  # of version 0.1.0
    assert main([*TABLE3, "--gather", "--only=cubes", "--seeds=0,1"]) == 0
    file = "runs/tables/table3_small/table3.md"
    first, second = read_table(file, 1), read_table(file, 2)
    assert first == [
        ["", "", "precision", "recall", "density", "image coverage"],
        ["Fixed", "Pre-trained on, Random cubes", "0.800 ± 0.000", "0.500 ± 0.000", "1.125 ± 0.177", "0.750 ± 0.000"],
    ]
    assert second[0] == ["", "", "coverage", "MMD", "1-NN accuracy", "largest piece"]
    with Path("runs/tables/table3_small/table3.csv").open() as lines:
        fixed = [row for row in csv.DictReader(lines) if row["row"] == "fixed"]
    assert [(row["kid"], row["density"]) for row in fixed] == [("0.1", "1.25"), ("", "1.0")]


def test_overfitting_is_a_further_table():
    gap = {"kid": 3.0, "d_train": 2.0, "d_held_out": 1.0, "d_gap": 0.5}
    write_run("fixed-cubes", 60.0, **gap)
    write_run("fixed-cubes-seed1", 64.0, **gap | {"d_gap": 0.7})
    write_run("retrained-cubes", 40.0, kid=2.0)
    assert main([*TABLE3, "--gather", "--only=cubes", "--seeds=0,1"]) == 0
    first, second = (read_table("runs/tables/table3_small/table3.md", i) for i in (1, 2))
    assert first[0][2:] == ["KID"] and first[-1][2:] == ["3.000 ± 0.000"]
    assert second[0][2:] == ["D of training images", "D of held-out images", "gap"]
    assert second[-1][2:] == ["2.000 ± 0.000", "1.000 ± 0.000", "0.600 ± 0.141"]
    text = Path("runs/tables/table3_small/table3.csv").read_text()
    assert [row["d_gap"] for row in csv.DictReader(text.splitlines())] == ["", "", "0.5", "0.7"]
    write_run("fixed-tables", 60.0, **gap)
    write_run(
        "fixed-tables-seed1", 64.0, **gap | {"sfid": float("inf"), "d_train": float("inf"), "d_gap": float("nan")}
    )
    assert main([*TABLE3, "--gather", "--only=fixed-tables", "--seeds=0,1"]) == 0
    assert read_table("runs/tables/table3_small/table3.md", 2)[-1][2:] == ["–", "1.000 ± 0.000", "–"]


def test_validation_with_another_extractor_is_gathered(capsys):
    imagenet = NOTE.replace("renders_small", "imagenet")
    folder = write_run("fixed-cubes", 60.0)
    write_run("retrained-cubes", 40.0)
    (folder / "validate").mkdir()
    late = {"kimg": 8, "step": 80, "fid": 33.0, "note": imagenet}
    early = late | {"step": 70, "fid": 99.0}  # from before the run was resumed
    other = late | {"fid": 22.0, "options": {"model.init_args.threshold": 0.3}}  # a measurement that is not the table's
    lines = (late | {"options": {"model.init_args.extractor": "imagenet"}}, early, other)
    (folder / "validate/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["table", "table6", *SMALL, "--gather", "--only=cubes"]) == 0
    rows = read_table("runs/tables/table3_small/table6.md")
    assert [row[1] for row in rows[1:]] == ["finished, not measured by imagenet (31.4)", "33.0 (84.4)"]
    assert f"seed 0, {imagenet}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"note": NOTE.replace("1,000 real", "500 real")}, "measured differently and cannot be combined in one table"),
        ({"note": NOTE.replace("renders_small", "renders_small (0f0f0f0f)")}, "renders_small (0f0f0f0f), 1,000"),
        ({"size": 64}, "trained differently and cannot be combined in one table: 64³ voxels"),
        ({"kimg": 4}, "trained differently and cannot be combined in one table: 64² images, 4 kimg"),
    ],
)
def test_runs_with_different_settings_are_not_combined(refused, other, message, monkeypatch):
    write_run("fixed-cubes", 60.0)
    write_run("retrained-cubes", 60.0)
    write_run("fixed-tables", 60.0, **other)
    if "(" in other.get("note", ""):  # any weights of the name, as at full scale
        monkeypatch.setattr("trainer.tables.command._measurement", lambda extractor, _: runner.Measurement(extractor))
    error = refused(*TABLE3, "--gather")
    assert message in error and "fixed-tables" in error and "and 1 more" in error
    assert not list(Path("runs/tables/table3_small").glob("table3.*"))


def test_unfinished_runs_have_no_result():
    for i, status in enumerate(("interrupted", "failed", "starting", "odd")):
        folder = write_run(f"cell{i}", 10.0, status=status)
        cell = load_table("table3").cells(load_scale("small", "", None))[0]
        run = runner.CellRun(cell, 0, folder, ())
        assert run.status != "finished" and run.result(runner.Measurement("renders_small")) is None
    (folder / "run.json").write_text("{")
    assert run.status == "interrupted"
    (folder / "metrics.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: not an evaluation"):
        run.progress()
