"""``configs/sweeps``: the Weights & Biases sweep and the loop run ``fit``; ``table`` and ``compare`` gather the runs."""

import itertools
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from small_demo import FIT
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from trainer.__main__ import main
from trainer.cli.config_composition import PROJECT_CONFIGS
from trainer.runs.run_lock import process_identity
from trainer.tables.runner import find_run
from utils.errors import InputError

SWEEPS = PROJECT_CONFIGS / "sweeps"
TABLE = ["table", "sweeps/r1_gamma_table.yaml", "--scale=small", "--seeds=1,2", "--gather", "--from=runs/sweep"]
NOTE = "extractor renders_small, 1,000 generated against 1,000 real images"


@pytest.fixture
def recorded(workplace, monkeypatch):
    """Run a command with an ``unrender`` that only records its words; return them by call, and the status."""
    (workplace / "bin").mkdir()
    stub = workplace / "bin" / "unrender"
    stub.write_text('#!/usr/bin/env bash\nprintf "%q " "$@" >> calls\necho >> calls\nexit ${STATUS:-0}\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{workplace / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def run(command: list[str], **variables: str) -> tuple[list[list[str]], int]:
        Path("calls").unlink(missing_ok=True)
        status = subprocess.run(command, env=os.environ | variables, check=False).returncode
        return [shlex.split(line) for line in Path("calls").read_text().splitlines()], status

    return run


def agent_command(sweep: dict, values: dict) -> list[str]:
    """The command of a run, as the agent of wandb forms it."""
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    words |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    command = []
    for part in create_sweep_command(list(sweep["command"])):
        command += words[part[2:-1]] if part.startswith("${") else [part]
    return command


def grid(sweep: dict) -> list[dict]:
    names, values = zip(*((name, x["values"]) for name, x in sweep["parameters"].items()), strict=True)
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]


def loop(recorded, *options: str) -> list[list[str]]:
    calls, status = recorded(["bash", str(SWEEPS / "r1_gamma.sh"), *options])
    assert status == 0
    return calls


def printed_config(capsys, words: list[str]) -> dict:
    capsys.readouterr()
    assert main([*words, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_weights_and_biases_sweep_runs_fit_with_its_parameters(recorded, capsys):
    sweep = load_sweep_config(str(SWEEPS / "r1_gamma.yaml"))
    assert sweep["method"] == "grid" and sweep["metric"] == {"name": "sfid", "goal": "minimize"}
    combinations = grid(sweep)
    assert len(combinations) == 12
    (words,), status = recorded(agent_command(sweep, combinations[-1]), WANDB_RUN_ID="abcd1234")
    assert status == 0 and words[words.index("--run_dir") + 1] == "runs/sweep/abcd1234"
    config = printed_config(capsys, words)
    model = config["model"]["init_args"]
    assert (model["r1_gamma"], model["generator_optimizer"]["init_args"]["lr"]) == (10, 0.0005)
    assert config["seed_everything"] == model["seed"] == 2
    assert config["trainer"]["logger"]["class_path"] == "callbacks.WandbRun"
    _, status = recorded(agent_command(sweep, combinations[0]), WANDB_RUN_ID="x", STATUS="3")
    assert status == 3  # the agent sees that a run failed


def test_the_loop_runs_the_same_trainings(recorded, capsys):
    sweep = load_sweep_config(str(SWEEPS / "r1_gamma.yaml"))
    calls = loop(recorded, "--data.total_kimg=1")
    assert {tuple(sorted(words[3:6])) for words in calls} == {
        tuple(sorted(f"--{name}={value}" for name, value in values.items())) for values in grid(sweep)
    }
    assert len({words[words.index("--run_dir") + 1] for words in calls}) == len(calls) == 12
    config = printed_config(capsys, calls[0])
    assert config["model"]["init_args"]["r1_gamma"] == 0 and config["data"]["init_args"]["total_kimg"] == 1


def test_the_loop_goes_on_after_a_failed_run_and_stops_when_interrupted(recorded):
    command = ["bash", str(SWEEPS / "r1_gamma.sh")]
    calls, _ = recorded(command, STATUS="3")
    assert len(calls) == 12
    calls, status = recorded(command, STATUS="130")
    assert len(calls) == 1 and status == 130


def test_documentation_shows_the_files():
    page = (PROJECT_CONFIGS.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert {file.name for file in SWEEPS.iterdir()} == {"r1_gamma.sh", "r1_gamma.yaml", "r1_gamma_table.yaml"}
    for file in SWEEPS.iterdir():
        assert f"\n{file.read_text(encoding='utf-8')}```" in page, file.name


def write_run(path: Path, words: list[str], fid: float, status: str = "finished") -> None:
    """Write a run directory as ``fit`` does."""
    path.mkdir(parents=True)
    shapes = {"class_path": "datamodules.shapes.ProceduralShapes", "init_args": {"category": "chair"}}
    data = {"shapes": shapes, "renderer": {"init_args": {"image_size": 64}}, "total_kimg": 30}
    model = {"generator": {"init_args": {"voxel_size": 32}}}
    (path / "config.yaml").write_text(yaml.dump({"data": {"init_args": data}, "model": {"init_args": model}}))
    (path / "run.json").write_text(json.dumps({"status": status, "host": process_identity()["host"]}))
    line = {"kimg": 30, "step": 10, "fid": fid, "sfid": 2 * fid, "density": 0.5, "note": NOTE}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (path / "command.txt").write_text(f"{shlex.join(['python', '-m', 'trainer', *words])}\n")


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def test_runs_with_line_breaks_in_options_are_recognized(workplace):
    words = ["fit", "--config", "a.yaml", "--model={\n}", "--run_dir", "runs/sweep/1"]
    write_run(Path("runs/sweep/1"), words, 1.0)
    assert find_run(Path("runs/sweep").iterdir(), words[1:-2]) == Path("runs/sweep/1")


def test_table_recognizes_runs_by_their_options(recorded, capsys):
    sweep = load_sweep_config(str(SWEEPS / "r1_gamma.yaml"))
    for number, values in enumerate(grid(sweep)[:-1]):  # one is missing
        (words,), _ = recorded(agent_command(sweep, values), WANDB_RUN_ID=f"id{number:02}")
        write_run(Path(words[words.index("--run_dir") + 1]), words, 10.0 + number)
    write_run(Path("runs/sweep/failed"), words, 1.0, status="failed")  # repeated
    write_run(Path("runs/sweep/longer"), [*words, "--data.total_kimg=60"], 1.0)
    (Path("runs/sweep") / "wandb").mkdir()
    capsys.readouterr()
    assert main(TABLE) == 0
    table = rows(capsys.readouterr().out)
    assert table[0] == ["", "2e-4", "5e-4"]
    assert table[2] == ["without R1", "**10.5 ± 0.7 / 21.0 ± 1.4**", "12.5 ± 0.7 / 25.0 ± 1.4"]
    assert table[4] == ["γ = 10", "18.5 ± 0.7 / 37.0 ± 1.4", "seed 2: not run"]
    assert ["γ = 2", "5e-4", "0.500 ± 0.000"] in table  # density
    with pytest.raises(InputError, match=r"runs/sweep/again and runs/sweep/id10 have the same options; remove all but"):
        write_run(Path("runs/sweep/again"), words, 1.0)
        find_run(sorted(Path("runs/sweep").iterdir()), words[1:])


def test_from_is_for_gathering_an_existing_directory(refused):
    assert "--from requires --gather" in refused(*TABLE[:4], "--from=runs")
    assert "no such directory: runs/sweep; pass the directory that contains the runs" in refused(*TABLE)


@pytest.mark.slow
def test_runs_of_the_loop_are_gathered(recorded, capsys):
    small, swept = FIT[2:], ["--model.r1_gamma=2", "--model.generator_optimizer.lr=0.0005"]
    runs = [words for words in loop(recorded, *small) if words[3:5] == swept]
    assert len(runs) == 2
    for words in runs:
        assert main(words) == 0
    directories = [words[words.index("--run_dir") + 1] for words in runs]
    capsys.readouterr()
    assert main(["compare", *directories, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in report["runs"]] == [1, 2] and not report["warning"]
    assert report["differences"].keys() >= {"seed_everything"}
    assert main([*TABLE, "--only=gamma2-lr5", "--", *small]) == 0
    (_, _, row, *_) = rows(capsys.readouterr().out)
    assert row[0] == "γ = 2" and "±" in row[1]
