"""Commands as a user types them."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from trainer.__main__ import COMMANDS, main
from trainer.cli.config_composition import KEYS
from trainer.runs.run_directory import RunDirectory

FIT = ["fit", "--config", "toy.yaml"]


def config_of(run: str) -> dict:
    return yaml.safe_load(Path(run, "config.yaml").read_text())


def state_of(run: str) -> dict:
    return torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)


def print_config(capsys, *argv: str) -> dict:
    capsys.readouterr()
    assert main([*FIT, *argv, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_help_does_not_import_torch(environment, tmp_path):
    code = "import sys, trainer.__main__ as m; m.main([]); sys.exit('torch' in sys.modules)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert time.monotonic() - began < 1
    assert all(command.help in done.stdout for command in COMMANDS.values())


@pytest.mark.slow
def test_packages_win_over_modules_in_the_current_directory(environment, tmp_path):
    for name in ("utils", "metrics"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module was imported')\n")
    for command in (["-m", "trainer", "--help"], ["-c", "import trainer.cli.lightning_cli, metrics, utils"]):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_unrender_script_finds_classes_in_the_current_directory(environment, tmp_path):
    (tmp_path / "my_part.py").write_text("")
    code = "import trainer.__main__ as m; m.main = lambda: __import__('my_part') is None; m.script()"
    script = [sys.executable, "-P", "-c", code]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_exists(capsys):
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"python -m trainer {name}" in capsys.readouterr().out


def test_unknown_command(refused):
    assert refused("fti") == "no such command 'fti'; did you mean fit?"


def test_fit_writes_a_run_directory(capsys):
    assert main([*FIT, "--model.latent_size=2"]) == 0
    run = Path("runs/toy/001")
    names = {path.name for path in run.iterdir()}
    assert names == {"config.yaml", "command.txt", "version.json", "run.json", "metrics.csv", "checkpoints"}
    assert (run / "command.txt").read_text() == "python -m trainer fit --config toy.yaml --model.latent_size=2\n"
    metadata = json.loads((run / "run.json").read_text())
    assert metadata["status"] == "finished"
    assert metadata["ended"] >= metadata["started"]
    recorded = json.loads((run / "version.json").read_text())["torch"]
    assert recorded.partition("+")[0] == torch.__version__.partition("+")[0]  # PyPI's builds hide their +cu130
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["loss/generator"]] == ["0", "1", "2", "3"]
    state = state_of(run)
    assert state["state_dict"]["steps_done"] == 4
    assert state["hyper_parameters"]["latent_size"] == 2
    captured = capsys.readouterr()
    assert captured.out.count("\n") <= 10
    assert captured.err == ""
    assert main(FIT) == 0
    assert RunDirectory("runs/toy/002").metadata["status"] == "finished"


def test_interpolation_follows_overrides(capsys, workplace):
    (workplace / "more.yaml").write_text("seed_everything: 5")
    config = print_config(capsys, "--data.size=16", "--config", "more.yaml", "--trainer.max_epochs", "2")
    assert config["model"]["init_args"]["image_size"] == 16
    assert config["model"]["init_args"]["seed"] == 5
    assert config["trainer"]["max_epochs"] == 2
    assert not Path("runs").exists()


def test_interpolation_of_a_whole_dataclass(capsys):
    config = print_config(capsys, "--data.cameras.fov=10")
    assert config["data"]["init_args"]["cameras"]["init_args"] == {"azimuth": [0, 90], "fov": 10}
    assert config["model"]["init_args"]["cameras"] == config["data"]["init_args"]["cameras"]


def test_options_override_files_in_any_order(capsys, workplace):
    (workplace / "more.yaml").write_text("data: {init_args: {batches: 9}}")
    config = print_config(capsys, "--data.batches=2", "--config=more.yaml")
    assert config["data"]["init_args"]["batches"] == 2


def test_parts_and_classes_by_option(capsys, workplace):
    (workplace / "model/tiny.yaml").write_text("{base: gan.yaml, init_args: {latent_size: 1}}")
    config = print_config(
        capsys, "--model", "model/tiny.yaml", "--model.renderer=toy.SharpBlur", "--model.optimizer_d.lr=1e-3"
    )
    assert config["model"]["init_args"]["latent_size"] == 1
    assert config["model"]["init_args"]["renderer"]["class_path"] == "toy.SharpBlur"
    assert config["model"]["init_args"]["optimizer_d"]["init_args"]["lr"] == 1e-3


def test_known_keys_are_those_of_fit(capsys):
    assert set(print_config(capsys)) == set(KEYS)


def test_saved_config_loads_identically():
    assert main([*FIT, "--data.size=6", "--model.optimizer_g.lr=3e-4"]) == 0
    assert main(["fit", "--config", "runs/toy/001/config.yaml", "--trust"]) == 0
    assert config_of("runs/toy/001") == config_of("runs/toy/002")
    first, second = state_of("runs/toy/001")["state_dict"], state_of("runs/toy/002")["state_dict"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fast_dev_run_writes_nothing(capsys):
    assert main([*FIT, "--trainer.fast_dev_run=1"]) == 0
    assert main(["predict", *FIT[1:], "--trainer.fast_dev_run=1"]) == 0
    assert not Path("runs").exists()


def test_fast_dev_run_trains_as_many_batches_as_it_says(monkeypatch):
    batches = []
    monkeypatch.setattr("toy.ToyGAN.on_train_batch_end", lambda self, outputs, batch, index: batches.append(index))
    assert main([*FIT, "--trainer.fast_dev_run=3"]) == 0
    assert batches == [0, 1, 2]


def test_run_dir(refused):
    assert main([*FIT, "--run_dir", "mine/first"]) == 0
    assert Path("mine/first/checkpoints/last.ckpt").is_file()
    assert not Path("runs").exists()
    assert "is a file" in refused(*FIT, "--run_dir", "toy.yaml")
    assert "--run_dir RUN" in refused(*FIT, "--ckpt_path", "last")
    for checkpoint in Path("mine/first/checkpoints").iterdir():
        checkpoint.unlink()
    assert "has no last checkpoint" in refused("validate", "--run_dir", "mine/first", "--trust")


def test_evaluating_a_run(capsys):
    assert main([*FIT, "--data.size=5"]) == 0
    for command in ("validate", "test"):
        assert main([command, "--run_dir", "runs/toy/001", "--trust"]) == 0
        assert "mean_weight" in capsys.readouterr().out
        assert Path("runs/toy/001", command, "metrics.csv").is_file()
    assert main(["predict", "--run_dir", "runs/toy/001", "--trust"]) == 0
    assert len(json.loads(Path("runs/toy/001/predict/shape.txt").read_text())[0]) == 5
    assert (
        main(["predict", "--config", "runs/toy/001/config.yaml", "--run_dir=out", "--ckpt_path=last", "--trust"]) == 0
    )
    assert Path("runs/toy/001/predict/shape.txt").is_file()
    assert main(["validate", "--config", "toy.yaml"]) == 0
    assert "untrained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("signals", "status", "steps"),
    [("2:SIGTERM", 143, 2), ("2:SIGINT", 130, 2), ("2:SIGINT:SIGINT", 130, None)],
)
def test_a_signal_saves_and_the_run_resumes(monkeypatch, capsys, signals, status, steps):
    monkeypatch.setenv("TOY_SIGNALS", signals)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(FIT) == status
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert RunDirectory("runs/toy/001").metadata["status"] == "interrupted"
    resume = "fit --run_dir runs/toy/001 --trust"
    err = capsys.readouterr().err
    if steps is None:
        assert "nothing was saved" in err
        assert not Path("runs/toy/001/checkpoints").exists()
        return
    typed = err.split("stopped and saved; resume with: ")[1].splitlines()[0]
    assert typed.endswith(f" -m trainer {resume}")
    assert shutil.which(typed.split()[0])
    assert state_of("runs/toy/001")["state_dict"]["steps_done"] == steps

    monkeypatch.delenv("TOY_SIGNALS")
    assert main(resume.split()) == 0
    assert main([*FIT, "--run_dir", "whole"]) == 0
    assert RunDirectory("runs/toy/001").metadata["status"] == "finished"
    assert len(Path("runs/toy/001/command.txt").read_text().splitlines()) == 2
    assert Path("runs/toy/001/metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
    stopped, whole = state_of("runs/toy/001"), state_of("whole")
    assert all(torch.equal(stopped["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items())
    assert stopped["global_step"] == whole["global_step"]
    assert (
        stopped["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        == whole["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    )


def test_a_signal_during_validation(monkeypatch):
    monkeypatch.setenv("TOY_VALIDATION_SIGNAL", "1")
    assert main([*FIT, "--trainer.val_check_interval=2"]) == 143
    monkeypatch.delenv("TOY_VALIDATION_SIGNAL")
    assert main(["fit", "--run_dir=runs/toy/001", "--ckpt_path=last", "--trust"]) == 0
    assert state_of("runs/toy/001")["state_dict"]["steps_done"] == 4


@pytest.mark.slow
def test_sigterm_from_another_process_saves(environment, tmp_path):
    flags = ["--data.batches=100000", "--model.step_seconds=0.01"]
    environment["TOY_PROGRESS"] = str(tmp_path / "progress")
    command = [sys.executable, "-m", "trainer", *FIT, *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        while not (tmp_path / "progress").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped and saved; resume with" in err
    assert "Traceback" not in err
    assert state_of("runs/toy/001")["state_dict"]["steps_done"] >= 1


@pytest.mark.slow
def test_proxy_is_trained_once(environment, workplace, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    (workplace / "needy.yaml").write_text("base: toy.yaml\nmodel: {init_args: {proxy_checkpoint: proxy.yaml}}")
    (workplace / "proxy.yaml").write_text("base: toy.yaml\ndata: {init_args: {batches: 1}}")
    needy = ["fit", "--config", "needy.yaml"]
    assert main([*needy, "--trainer.fast_dev_run=1"]) == 0
    assert not Path("runs").exists()
    assert main(needy) == 0
    out = capfd.readouterr().out
    assert "training the proxy first, once" in out
    assert (
        config_of("runs/needy/001")["model"]["init_args"]["proxy_checkpoint"] == "runs/proxy/001/checkpoints/last.ckpt"
    )
    assert main(needy) == 0
    assert sorted(path.name for path in Path("runs/proxy").iterdir()) == ["001"]
    RunDirectory("runs/proxy/001").end("interrupted")
    assert main(needy) == 0
    assert "resuming the training of the proxy first: runs/proxy/001" in capfd.readouterr().out
    RunDirectory("runs/proxy/001").end("failed")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert main(needy) == 2
    assert "training the proxy with proxy.yaml failed with status 1" in capfd.readouterr().err


@pytest.mark.slow
def test_two_ranks_share_one_run(environment, workplace):
    flags = ["--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true", "--data.batches=4"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *FIT, *flags], env=environment, capture_output=True, text=True, cwd=workplace
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in Path("runs/toy").iterdir()] == ["001"]
    assert done.stdout.count("finished:") == 1


def test_run_numbers_are_unique():
    runs = [RunDirectory.create_next("race") for _ in range(3)]
    assert [run.path.name for run in runs] == ["001", "002", "003"]
    for run in runs:
        run.release()
    assert not Path("runs").exists()
