"""A run is finished when the steps that its data module plans were done; else it is interrupted and can be resumed."""

from pathlib import Path

import pytest
import torch
from ddp.test_cluster_scripts import CONFIG
from toy_runs import FIT

from trainer.__main__ import main
from trainer.runs.run_directory import RunDirectory, newest_run

RUN = RunDirectory("run")
EARLY = "--trainer.callbacks+={class_path: toy.StopAfter, init_args: {step: 2}}"


def steps() -> int:
    return int(torch.load(RUN.last_checkpoint, weights_only=True)["state_dict"]["steps_done"])


@pytest.mark.parametrize(
    "option",
    ["--trainer.max_steps=4", "--trainer.limit_train_batches=2", EARLY],
)
def test_a_run_that_an_option_ends_is_not_finished(option, capsys):
    assert main([*FIT, option]) == 0
    assert RUN.status == "interrupted"
    assert steps() < 4
    assert newest_run("toy", finished=True) is None
    printed = capsys.readouterr().err
    assert f"stopped by an option or a callback after step {steps()} of the run, which has 4; resume with" in printed
    again = printed.split("resume with: ")[1].split()
    assert main(again[again.index("fit") :]) == 0
    assert RUN.status == "finished" and steps() == 4


def test_max_time_limits_each_start():
    fit = [*FIT, "--trainer.max_time=00:00:00:01", "--model.step_seconds=0.6"]
    assert main(fit) == 0
    assert steps() == 2 and RUN.status == "interrupted"
    assert main(["fit", "--run_dir", "run", "--trust"]) == 0
    assert steps() == 4 and RUN.status == "finished"


def test_several_epochs_are_resumed_where_they_stopped():
    assert main([*FIT, "--trainer.max_epochs=3", EARLY.replace("2}", "6}")]) == 0
    assert RUN.status == "interrupted" and steps() == 6
    assert main([*FIT, "--trainer.max_epochs=3"]) == 0
    assert RUN.status == "finished" and steps() == 12


def test_the_data_module_plans_the_run(workplace, monkeypatch):
    monkeypatch.setenv("UNRENDER_CACHE", str(workplace / "cache"))
    (workplace / "small.yaml").write_text(CONFIG)
    fit = ["fit", "--config", "small.yaml", "--run_dir", "run", "--data.total_kimg=0.02"]
    assert main([*fit, "--trainer.limit_train_batches=2"]) == 0
    assert RUN.status == "interrupted"
    assert main([*fit, "--trainer.limit_train_batches=null"]) == 0
    assert RUN.status == "finished"
    assert torch.load(RUN.last_checkpoint, weights_only=True)["clock"]["step"] == 5


def test_a_finished_command_leaves_the_status_alone(capsys):
    assert main(FIT) == 0
    assert RUN.status == "finished" and "stopped" not in capsys.readouterr().err
    assert main(["validate", "--run_dir", "run", "--trust"]) == 0
    assert RUN.status == "finished" and "stopped" not in capsys.readouterr().err
    assert Path("run/validate").is_dir()
