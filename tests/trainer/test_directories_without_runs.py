"""Commands on a directory that is no run, or a run without its run.json: nothing in it is lost."""

import shutil
from pathlib import Path

import kill_and_resume
import pytest
from toy_runs import FIT, LAST, RUN

from trainer.__main__ import main
from trainer.runs.run_directory import RunDirectory


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_run_without_its_metadata_is_read_and_kept(command, capsys):
    assert main(FIT) == 0
    (RUN / "run.json").unlink()
    before = contents(RUN)
    capsys.readouterr()
    assert main([command, "--run_dir", "run", "--trust"]) == 0
    assert "untrained" not in capsys.readouterr().out
    after = contents(RUN)
    assert {name: after.get(name) for name in before} == before
    assert all(name.startswith(f"{command}/") for name in after.keys() - before)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("folder", ["mine", "typo", "run/checkpoints"])
def test_a_directory_without_a_run_is_refused(command, folder, refused):
    assert main(FIT) == 0
    Path("mine").mkdir()
    Path("mine/metrics.csv").write_text("a,b\n1,2\n")
    before = contents(Path())
    message = refused(command, "--config", "toy.yaml", "--run_dir", folder)
    assert f"--run_dir {folder} holds no run; pass a directory created by fit" in message
    assert contents(Path()) == before and not Path("typo").exists()


def test_results_of_a_checkpoint_go_to_a_subdirectory_of_run_dir():
    assert main(FIT) == 0
    shutil.copy(LAST, "alone.ckpt")
    Path("mine").mkdir()
    Path("mine/metrics.csv").write_text("a,b\n1,2\n")
    assert main(["validate", "--config", "toy.yaml", "--ckpt_path", "alone.ckpt", "--run_dir", "mine"]) == 0
    assert Path("mine/metrics.csv").read_text() == "a,b\n1,2\n" and Path("mine/validate/metrics.csv").is_file()


def test_an_empty_run_dir_is_refused(refused):
    for command in ("fit", "validate"):
        assert "--run_dir needs the name of a directory" in refused(command, "--config", "toy.yaml", "--run_dir", "")
    assert not Path("runs").exists()


def test_a_run_is_not_moved_from_under_the_command(monkeypatch, refused):
    assert main(FIT) == 0
    before = contents(RUN)
    config = str(Path("toy.yaml").resolve())
    monkeypatch.chdir(RUN)
    for name in (".", "checkpoints/.."):
        assert "run the command elsewhere" in refused("fit", "--config", config, "--run_dir", name, "--fresh")
    monkeypatch.chdir("..")
    assert contents(RUN) == before
    assert main(["fit", "--config", "toy.yaml", "--run_dir", "run/checkpoints/..", "--fresh"]) == 0
    assert contents(Path("run.before-1")) == before and RunDirectory(RUN).status == "finished"


@pytest.mark.slow
def test_a_checkpoint_beyond_the_end_of_the_run_is_refused(monkeypatch, refused):
    monkeypatch.setenv("UNRENDER_CACHE", "cache")
    fit = ["fit", *kill_and_resume.MODULES["dcgan"], *kill_and_resume.TINY, "--data.total_kimg=0.012"]
    assert main([*fit, "--run_dir=run"]) == 0
    message = refused(*fit, f"--ckpt_path={LAST}", "--run_dir=again")
    assert "has been trained for 3 steps, and total_kimg 0.012 is 3 steps, so nothing would be trained" in message
    assert not Path("again").exists()
    assert main([*fit, f"--ckpt_path={LAST}", "--run_dir=again", "--data.total_kimg=0.016"]) == 0
