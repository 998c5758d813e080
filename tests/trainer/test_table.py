"""``python -m trainer table``: definitions, commands, gathering, and two cells trained for a few steps."""

import csv
import json
import os
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from table_runs import NOTE, SMALL, TABLE3, write_proxy, write_run

from trainer.__main__ import main
from trainer.cli.session import Session
from trainer.tables import runner
from trainer.tables.spec import load_scale, load_table, table_names
from utils.errors import InputError


def command_lines(capsys, *argv: str) -> list[str]:
    capsys.readouterr()
    assert main(["table", *argv, "--commands"]) == 0
    return capsys.readouterr().out.splitlines()


def read_table(path: str, number: int = 0) -> list[list[str]]:
    tables = [part.splitlines() for part in Path(path).read_text().split("\n\n") if part.lstrip().startswith("|")]
    rows = [line for line in tables[number] if line]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "---" not in row]


def test_paper_results_are_those_of_the_supplement():
    names = [f"table{i}" for i in range(1, 7)]
    assert table_names() == ["ablation", "few_images", "ours", *names]
    scale = load_scale("full", "ShapeNetCore.v2", None)
    paper = {n: {cell.name: cell.paper for cell in load_table(n).cells(scale)} for n in names}
    assert [len(paper[n]) for n in names] == [40, 10, 6] * 2
    assert sum(paper["table1"].values()) == pytest.approx(7268.7)
    assert sum(paper["table4"].values()) == pytest.approx(3972.7)
    assert sum(paper["table2"].values()) == pytest.approx(
        86.4 + 180.1 + 74.7 + 144.8 + 113.7 + 323.5 + 103.9 + 124.6 + 56.5
    )
    assert sum(paper["table5"].values()) == pytest.approx(
        93.6 + 146.6 + 58.1 + 88.2 + 149.3 + 238.6 + 61.6 + 100 + 68.6
    )
    assert [paper["table3"][f"retrained-{c}"] for c in ("chairs", "tables", "cubes")] == [22.6, 20.7, 20.4]
    assert [paper["table6"][f"fixed-{c}"] for c in ("chairs", "tables", "cubes")] == [43.0, 69.5, 84.4]
    assert (
        paper["table1"]["iggan-chairs_one"]
        == paper["table3"]["retrained-tables"]
        == paper["table2"]["dom-chairs_opengl"]
    )
    assert (
        paper["table4"]["iggan-chairs_one"]
        == paper["table6"]["retrained-tables"]
        == paper["table5"]["dom-chairs_opengl"]
    )


@pytest.mark.parametrize("scale", ["full", "small", "archive"])
@pytest.mark.parametrize("name", ["table1", "table2", "table3", "ours", "ablation", "few_images"])
def test_every_cell_composes_a_config(name, scale):
    loaded = load_scale(
        "full" if scale == "full" else "small", "a folder", "a file.npz" if scale == "archive" else None
    )
    names = set()
    for cell in load_table(name).cells(loaded):
        session = Session("fit", list(cell.words))
        values = session.composed.values
        assert {"model", "data", "trainer"} <= set(values)
        assert all(word.startswith("--") and "{" not in word for word in session.rest)
        size = 128 if scale == "full" else 64
        assert values["data"]["init_args"]["renderer"]["init_args"]["image_size"] == size
        assert values["model"]["init_args"]["discriminator"]["init_args"]["image_size"] == size
        assert ("--data.shapes.root=a folder" in session.rest) == (scale == "full")
        assert ("--data.shapes.path=a file.npz" in session.rest) == (scale == "archive")
        names.add(tuple(cell.words))
    assert len(names) == {"table1": 40, "table2": 10, "table3": 6, "ours": 18, "ablation": 9, "few_images": 9}[name]


@pytest.mark.parametrize(
    ("table", "cell", "expected"),
    [
        ("table1", "absorption-couches_500", {"images": 500}),
        ("table1", "dcgan-chairs_lvp", {"images": "unlimited"}),
        ("table2", "fixed-couches_rendernet", {"dom_weight": 0.0, "proxy": "fixed", "discriminator_sees": "neural"}),
        ("table3", "fixed-cubes", {"proxy": "fixed", "proxy_checkpoint": "proxy_cubes_32.yaml"}),
    ],
)
def test_printed_commands_parse(table, cell, expected, capsys):
    (line,) = command_lines(capsys, table, *SMALL, "--only", cell, "--seeds=3", "--kimg=0.5")
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "trainer", "fit"] and words[-1].endswith(f"{table}_small/{cell}-seed3")
    assert main([*words[3:], "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["seed"] == data["seed"] == 3 and data["total_kimg"] == 0.5
    assert expected.items() <= (model | data).items()
    couch = "couch" in cell
    assert data["reference_shapes"]["init_args"]["category"] == ("couch" if couch else "chair")
    assert data["views"]["init_args"]["elevation"] == ([15, 60] if couch or "lvp" in cell else [-30, 60])
    if "lvp" in cell:
        assert data["reference_views"]["init_args"]["elevation"] == [-30, 60]
    assert not Path("runs").exists()


def test_only_missing_commands_are_printed(capsys):
    write_run("fixed-cubes", 12.0)
    write_run("fixed-tables", None, status="interrupted")
    write_run("fixed-chairs", None, status="running", checkpoint=False, pid=2**22 + 1)
    write_run("retrained-chairs", None, status="running")
    lines = command_lines(capsys, "table3", *SMALL)
    assert len(lines) == 4
    assert lines[0].startswith(
        "rm -r runs/tables/table3_small/fixed-chairs && python -m trainer fit --config=chairs_procedural.yaml"
    )
    assert lines[1].endswith("--run_dir runs/tables/table1_small/iggan-chairs_one")
    assert lines[2] == "python -m trainer fit --run_dir runs/tables/table3_small/fixed-tables"
    assert "retrained-cubes" in lines[3]
    assert main([*TABLE3, "--commands"]) == 0
    assert (
        "run this first, or each run trains its own proxy: python -m trainer fit --config proxy_cubes_32.yaml"
        in capsys.readouterr().err
    )
    again = command_lines(capsys, "table3", *SMALL, "--extractor_weights", str(small_weights()))
    assert [line.split(" && ")[-1].split()[3] for line in again] == ["validate"] * 5
    assert again[-1].startswith(
        "python -m trainer validate --run_dir runs/tables/table3_small/fixed-cubes --model.extractor="
    )


def small_weights() -> Path:
    """The classifier's weights, passed as a file."""
    from metrics.extractors import WEIGHTS

    return WEIGHTS / "renders_small.pt"


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
    text = Path("runs/tables/table3_small/table3.csv").read_text()
    assert [row["coverage"] for row in csv.DictReader(text.splitlines())] == ["", "", "0.3", "0.4"]


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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tabel2"], "no such table: 'tabel2'; did you mean table2?"),
        (["mine.yaml"], "no such config 'mine.yaml'"),
        (["toy.yaml"], "toy.yaml is not a table: it has no rows"),
        (["odd.yaml", *SMALL], "odd.yaml a-b: the placeholder {sise} is not defined in tables/scales.yaml"),
        (["unknown.yaml"], "unknown.yaml: rows.a has an unknown key 'word'; the keys are name, note, same, words"),
        (["table1"], "no such directory: ShapeNetCore.v2; pass the ShapeNet directory by --root, or use --scale small"),
        (["table1", "--root", "model"], "'renders' requires a weights file"),
        (["table1", "--archive", "x.npz"], "--archive requires --scale small"),
        (["table1", *SMALL, "--root", "x"], "--root requires --scale full"),
        (["table1", *SMALL, "--archive", "x.npz"], "no such archive of voxels: x.npz"),
        (
            ["table3", *SMALL, "--only", "cups"],
            "no cell of table3 matches cups; the cells are retrained-chairs, fixed-chairs",
        ),
        (["table3", *SMALL, "--seeds", "0,0"], "'0,0' is not a list of distinct integers"),
        (["table3", *SMALL, "--kimg", "0"], "'0' is not a positive number"),
        (["table3", "--extractor", "imagnet"], "invalid choice: 'imagnet'"),
        (["table3", "--extractor_weights=gone.pt", "--extractor=renders", "--root=model"], "do not exist at gone.pt"),
        (["table3", "--gather", "--commands"], "not allowed with argument"),
    ],
)
def test_invalid_options_and_definitions_are_rejected(refused, workplace, argv, message):
    start = "title: T\npaper: P\ncolumns: {b: {heads: [B], words: '--config=demo.yaml'}}\nrows: {a: {name: A, "
    (workplace / "odd.yaml").write_text(start + "words: '--model=model/x{sise}.yaml'}}\n")
    (workplace / "unknown.yaml").write_text(start + "word: ''}}\n")
    assert message in refused("table", *argv)
    assert not Path("runs").exists()


TINY = [
    *("--data.batch_size=4", "--data.reference_images=8", "--data.shapes.count=4", "--data.num_workers=0"),
    *("--model.generator.width=16", "--model.discriminator.width=8"),
    *("--trainer.accelerator=cpu", "--trainer.devices=1"),
]


@pytest.fixture
def called(monkeypatch) -> list[list[str]]:
    """Run commands in this process, because a new process imports the libraries again; return the commands."""
    commands: list[list[str]] = []
    monkeypatch.setattr(runner, "_call", lambda command: commands.append(command) or main(command))
    return commands


@pytest.mark.slow
def test_cells_are_trained_once_and_measured_again_for_other_weights(called, refused, monkeypatch, capsys):
    argv = ["table", "table1", *SMALL, "--kimg=0.008", "--only=dcgan-chairs_one", "--only=visual_hull-chairs_one"]
    assert main([*argv, "--", *TINY]) == 0
    assert [command[0] for command in called] == ["fit", "fit"]
    rows = read_table("runs/tables/table1_small/table1.md")
    assert all(float(row[1].strip("*").split("*")[0].split(" ")[0]) > 0 for row in rows[1:])
    out = capsys.readouterr().out
    assert "extractor renders_small, 8 generated against 8 real images" in out
    assert "Training images: One per model, Chairs: 4 of 4 models." in out
    assert main([*argv, "--", *TINY]) == 0
    assert len(called) == 2
    error = refused(*argv, "--kimg=0.012", "--", *TINY)
    assert "contains a run with other options: --data.total_kimg=0.008 instead of --data.total_kimg=0.012" in error

    run_metadata = Path("runs/tables/table1_small/dcgan-chairs_one/run.json")
    run_metadata.write_text(run_metadata.read_text().replace("finished", "interrupted"))
    weights = ["--extractor_weights", str(small_weights())]
    assert main([*argv, *weights, "--", *TINY]) == 0
    assert [command[0] for command in called[2:]] == ["fit", "validate", "validate"]
    assert called[2][1:3] == ["--run_dir", "runs/tables/table1_small/dcgan-chairs_one"]
    assert "extractor renders_small (" in Path("runs/tables/table1_small/table1.md").read_text()
    assert main([*argv, *weights, "--", *TINY]) == 0
    assert len(called) == 5

    Path("runs/tables/table1_small/dcgan-chairs_one/checkpoints/last.ckpt").unlink()
    run_metadata.write_text(run_metadata.read_text().replace("finished", "failed"))
    monkeypatch.setattr(runner, "_call", lambda command: called.append(command) or 1)
    assert "1 of 2 runs failed: dcgan-chairs_one; run the same command" in refused(*argv, "--", *TINY)
    assert not run_metadata.exists() and called[-1][0] == "fit"  # started over
    monkeypatch.setattr(runner, "_call", lambda command: 2)
    assert "the cell dcgan-chairs_one was rejected" in refused(*argv, "--", *TINY)
    monkeypatch.setattr(runner, "_call", lambda command: os.kill(os.getpid(), signal.SIGTERM))
    assert main([*argv, "--", *TINY]) == 143
    assert "stopped; run the same command to resume" in capsys.readouterr().err


def test_running_cells_are_skipped(called, capsys):
    write_run("retrained-cubes", None, status="running")
    assert main([*TABLE3, "--only=retrained-cubes"]) == 0
    out = capsys.readouterr().out
    assert not called and "skipped: already running" in out and "running, 2 of 8 kimg (20.4)" in out


def test_commands_run_in_a_subprocess(environment, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert runner._call(["fti"]) == 2
    assert "did you mean fit" in capfd.readouterr().err
