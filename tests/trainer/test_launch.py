"""The rank and the number of ranks come from the trainer; stray variables of launchers are ignored and named."""

import os
import sys

import pytest
from toy_runs import FIT

from trainer.__main__ import main
from trainer.runs.run_directory import RunDirectory
from utils.launch import Launch, launch, without_stray_variables

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"),
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "note"),
    [
        ({"SLURM_PROCID": "1"}, ""),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ""),
        ({"SLURM_NTASKS": "2"}, "SLURM_NTASKS=2: srun did not start this process"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "1"}, "SLURM_NTASKS=2"),
        ({"RANK": "1"}, "ignoring RANK: without MASTER_ADDR"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "ignoring RANK and WORLD_SIZE and LOCAL_RANK"),
        ({"LOCAL_RANK": "3"}, "ignoring LOCAL_RANK"),
    ],
)
def test_stray_variables_are_ignored(monkeypatch, capsys, variables, note):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch() == Launch()
    assert main(FIT) == 0
    out = capsys.readouterr().out
    assert note in out and ("ignoring" in out) == bool(note)
    run = RunDirectory("run")
    assert run.status == "finished"
    names = {path.name for path in run.path.iterdir()}
    assert names == {"config.yaml", "command.txt", "version.json", "run.json", "metrics.csv", "checkpoints"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "WORLD_SIZE": "2"}, Launch("torchrun", 1, 2)),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, Launch("srun", 3, 4)),
        ({"MASTER_ADDR": "a", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Launch("the launcher", 1, 2)),
        ({"MASTER_ADDR": "a", "NODE_RANK": "1"}, Launch()),
    ],
)
def test_launchers_are_recognized_and_keep_their_variables(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch() == expected
    with without_stray_variables() as notes:
        assert launch() == expected and not notes
        assert all(name in os.environ for name in variables)


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
            [],
            "srun started 2 processes, but the trainer has 1; set --trainer.num_nodes",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
            ["--trainer.devices=2", "--trainer.strategy=ddp"],
            "Use `--ntasks-per-node=2`",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"},
            [],
            "torchrun started 2 processes, but the trainer has 1",
        ),
    ],
)
def test_several_processes_need_a_trainer_of_as_many(monkeypatch, refused, variables, options, message):
    monkeypatch.setattr("trainer.__main__.print_error", lambda text: print(f"error: {text}", file=sys.stderr))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in refused(*FIT, *options)
    assert not RunDirectory("run").path.exists()
