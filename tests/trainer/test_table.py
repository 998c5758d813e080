"""``python -m trainer table``: definitions, commands, and two cells trained for a few steps."""

import os
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from table_runs import SMALL, TABLE3, read_table, write_run

from trainer.__main__ import main
from trainer.cli.session import Session
from trainer.tables import runner
from trainer.tables.spec import load_scale, load_table, table_names


def command_lines(capsys, *argv: str) -> list[str]:
    capsys.readouterr()
    assert main(["table", *argv, "--commands"]) == 0
    return capsys.readouterr().out.splitlines()


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
    assert len(names) == {"table1": 40, "table2": 10, "table3": 6, "ours": 21, "ablation": 9, "few_images": 9}[name]


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


@pytest.mark.parametrize(("pattern", "cells"), [("absorption-chairs", 1), ("absorption-chair", 2)])
def test_a_whole_name_selects_one_cell(pattern, cells, capsys):
    assert len(command_lines(capsys, "ours", *SMALL, "--only", pattern)) == cells


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
    monkeypatch.setattr(runner, "run_trainer", lambda command: commands.append(command) or main(command))
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
    monkeypatch.setattr(runner, "run_trainer", lambda command: called.append(command) or 1)
    assert "1 of 2 runs failed: dcgan-chairs_one; run the same command" in refused(*argv, "--", *TINY)
    assert not run_metadata.exists() and called[-1][0] == "fit"  # started over
    monkeypatch.setattr(runner, "run_trainer", lambda command: 2)
    assert "the cell dcgan-chairs_one was rejected" in refused(*argv, "--", *TINY)
    monkeypatch.setattr(runner, "run_trainer", lambda command: os.kill(os.getpid(), signal.SIGTERM))
    assert main([*argv, "--", *TINY]) == 143
    assert "stopped; run the same command to resume" in capsys.readouterr().err


def test_running_cells_are_skipped(called, capsys):
    write_run("retrained-cubes", None, status="running")
    assert main([*TABLE3, "--only=retrained-cubes"]) == 0
    out = capsys.readouterr().out
    assert not called and "skipped: already running" in out and "running, 2 of 8 kimg (20.4)" in out


def test_commands_run_in_a_subprocess(environment, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert runner.run_trainer(["fti"]) == 2
    assert "did you mean fit" in capfd.readouterr().err
