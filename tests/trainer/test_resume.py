"""Runs that are killed, have corrupt files, hit a full disk or diverge to NaN, and how they resume."""

import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import kill_and_resume
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from toy_runs import FIT, LAST, RUN, stop_at

from callbacks.checkpointing import RunCheckpoint
from callbacks.nan_guard import TerminateOnNaN
from trainer.__main__ import main
from trainer.runs import run_lock
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError


def steps_of(path: Path = LAST) -> int:
    return int(torch.load(path, weights_only=True)["state_dict"]["steps_done"])


@pytest.mark.parametrize("again", [FIT, ["fit", "--run_dir", "run", "--trust"], [*FIT, "--ckpt_path", "last"]])
def test_the_same_command_resumes(monkeypatch, capsys, again):
    stop_at(monkeypatch, 2)
    assert main(again) == 0
    out = capsys.readouterr().out
    assert f"from {LAST}" in out
    assert steps_of() == 4
    assert [row["step"] for row in csv.DictReader((RUN / "metrics.csv").open()) if row["loss/generator"]] == list(
        "0123"
    )
    before = LAST.read_bytes()
    assert main(again) == 0
    assert (
        capsys.readouterr().out
        == "run is already finished; pass a larger --data.total_kimg to train longer, or --fresh to start over\n"
    )
    assert LAST.read_bytes() == before


def test_only_execution_settings_may_change_on_resume(monkeypatch, refused, capsys):
    stop_at(monkeypatch, 2)
    for option, key in (
        ("--model.latent_size=5", "model.init_args.latent_size 4, not 5"),
        ("--data.batches=9", "data.init_args.batches 4, not 9"),
        ("--seed_everything=4", "seed_everything 3, not 4"),
        ("--model.renderer=toy.SharpBlur", "model.init_args.renderer.class_path toy.Blur, not toy.SharpBlur"),
    ):
        for words in (FIT, ["fit", "--run_dir", "run", "--trust"]):
            assert f"run was started with {key}; drop this change" in refused(*words, option)
    assert RunDirectory(RUN).status == "interrupted"
    assert main([*FIT, "--checkpoint_minutes=5", "--trainer.log_every_n_steps=2"]) == 0
    assert (
        "resumes with trainer.log_every_n_steps 2 (was 1), checkpoint_minutes 5.0 (was 10.0)" in capsys.readouterr().out
    )
    assert RunDirectory(RUN).settings["checkpoint_minutes"] == 5


def test_monitor_may_change_on_resume_and_must_be_evaluated(monkeypatch, refused):
    assert "monitor sdif is none of the metrics" in refused(*FIT, "--monitor=sdif")
    assert not RUN.exists()
    stop_at(monkeypatch, 2)
    assert "monitor mmd is not a metric of this run's evaluations; unset monitor" in refused(*FIT, "--monitor=mmd")
    assert RunDirectory(RUN).settings["monitor"] == "mmd"
    assert main([*FIT, "--monitor=null"]) == 0


@pytest.mark.parametrize(
    ("part", "error"), [("ToyData.prepare_data", InputError("")), ("ToyGAN.training_step", ZeroDivisionError())]
)
def test_a_resume_that_fails_before_its_first_step_changes_nothing(monkeypatch, part, error):
    def fail(*_: object) -> None:
        raise error

    stop_at(monkeypatch, 3, "--trainer.val_check_interval=1")
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(f"toy.{part}", fail, raising=False)
        again = [*FIT, "--checkpoint_minutes=5", "--ckpt_path=run/checkpoints/previous.ckpt"]
        with nullcontext() if isinstance(error, InputError) else pytest.raises(type(error)):
            assert main(again) == 2
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    assert main(again) == 0
    assert RunDirectory(RUN).settings["checkpoint_minutes"] == 5 and RunDirectory(RUN).status == "finished"


def test_fresh_moves_the_run_aside(monkeypatch, capsys):
    stop_at(monkeypatch, 2)
    old = LAST.read_bytes()
    for number in (1, 2):
        assert main([*FIT, "--fresh", "--data.batches=3"]) == 0
        assert f"moved run to run.before-{number}" in capsys.readouterr().out
    assert steps_of() == 3
    assert Path("run.before-1/checkpoints/last.ckpt").read_bytes() == old
    assert main(["validate", "--run_dir", "run", "--trust", "--fresh"]) == 2


def test_a_corrupt_last_checkpoint_is_skipped(monkeypatch, capsys, refused):
    stop_at(monkeypatch, 2, "--trainer.val_check_interval=1")
    previous = LAST.with_name("previous.ckpt")
    whole = LAST.read_bytes()
    assert previous.is_file()
    middle = bytearray(whole)
    offset = whole.index(torch.load(LAST, weights_only=True)["state_dict"]["generator.weight"].numpy().tobytes())
    middle[offset] ^= 1  # torch.load would accept it
    for corrupt in (whole[: len(whole) // 2], b"", bytes(middle)):
        LAST.write_bytes(corrupt)
        assert main(["validate", "--run_dir", "run", "--trust"]) == 0
        out = capsys.readouterr().out
        assert "run: last.ckpt corrupt; using previous.ckpt of step" in out
    assert main(FIT) == 0
    assert steps_of() == 4
    for path in LAST.parent.iterdir():
        path.write_bytes(whole[:100])
    assert "all checkpoints are corrupt: " in refused("validate", "--run_dir", "run", "--trust")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(errno.EIO, "Input/output error"), "Input/output error"), (MemoryError(), "out of memory")],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_skipped(monkeypatch, refused, error, reason):
    """A disk that answers later, or more memory: the previous checkpoint would lose steps, --fresh the run."""
    stop_at(monkeypatch, 2, "--trainer.val_check_interval=1")

    def fail(*args, **options):
        raise error

    monkeypatch.setattr("trainer.runs.checkpoints.torch.load", fail)
    message = refused("validate", "--run_dir", "run", "--trust")
    assert message.endswith(f"last.ckpt cannot be read: {reason}; try again when it can")


def test_a_finished_run_without_checkpoints_does_not_start_again(monkeypatch, refused):
    """It would delete the metrics."""
    monkeypatch.setenv("UNRENDER_CACHE", "cache")
    fit = ["fit", *kill_and_resume.MODULES["dcgan"], *kill_and_resume.TINY, "--run_dir=run"]
    assert main([*fit, "--data.total_kimg=0.012"]) == 0
    for path in LAST.parent.iterdir():
        path.unlink()
    before = (RUN / "metrics.csv").read_bytes(), (RUN / "run.json").read_bytes()
    message = refused(*fit, "--data.total_kimg=0.024")
    assert message == "run is finished, but has no checkpoint to continue; put one back, or pass --fresh"
    assert before == ((RUN / "metrics.csv").read_bytes(), (RUN / "run.json").read_bytes())


def test_a_run_without_a_checkpoint_starts_from_the_beginning(monkeypatch, capsys):
    stop_at(monkeypatch, 2)
    LAST.unlink()
    assert main(FIT) == 0
    assert "run has no checkpoint yet and starts from the beginning" in capsys.readouterr().out
    rows = [row["step"] for row in csv.DictReader((RUN / "metrics.csv").open()) if row["loss/generator"]]
    assert rows == ["0", "1", "2", "3"]


def test_a_running_run_is_refused(monkeypatch, refused):
    stop_at(monkeypatch, 2)
    run = RunDirectory(RUN)
    metadata = {"status": "running", "experiment": "toy", **run_lock.process_identity()}
    run.metadata_file.write_text(json.dumps(metadata))
    assert run.status == "running"
    assert f"run is being trained by process {os.getpid()} on {socket.gethostname()}" in refused(*FIT)
    assert "stop it first" in refused(*FIT, "--fresh")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    run.metadata_file.write_text(json.dumps(metadata | {"pid": child.pid}))
    assert run.status == "interrupted"
    run.metadata_file.write_text(json.dumps(metadata | {"born": "another boot 1"}))  # the process id was reused
    assert run.status == "interrupted"


def test_a_process_on_another_machine_is_known_by_its_heartbeat(tmp_path, monkeypatch):
    file, metadata = tmp_path / "run.json", {"pid": 1, "host": "elsewhere", "job": "7"}
    file.write_text("{}")
    assert run_lock.is_alive(metadata, file)
    os.utime(file, (time.time() - 1000,) * 2)
    assert not run_lock.is_alive(metadata, file)
    monkeypatch.setattr(run_lock, "TIMEOUT", 1.5)
    assert not run_lock.is_alive(metadata, file, wait=True)
    monkeypatch.setattr(run_lock, "HEARTBEAT", 0.2)
    with run_lock.heartbeat(file):
        assert run_lock.is_alive(metadata, file, wait=True)
        monkeypatch.setenv("SLURM_JOB_ID", "7")  # requeued: the earlier process has ended
        assert not run_lock.is_alive(metadata, file)


def test_nan_stops_the_run_and_overwrites_nothing(monkeypatch, capsys):
    monkeypatch.setenv("TOY_NAN", "3")
    assert main([*FIT, "--trainer.val_check_interval=1", "--trainer.log_every_n_steps=50"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: step 3: loss g of the generator is nan; the last valid checkpoint is ")
    assert f"{LAST}, of step 2; " in err and "detect_anomaly" in err and err.count("\n") == 1
    assert steps_of() == 2
    assert RunDirectory(RUN).metadata["status"] == "failed"


def test_non_finite_weights_are_not_saved():
    class OneRank(Trainer):
        world_size, log_every_n_steps = 1, 2

        def __init__(self) -> None:
            pass

    module, trainer = LightningModule(), OneRank()
    module.layer, module.step, module.losses = torch.nn.Linear(2, 2), 7, {}
    watch = TerminateOnNaN()
    watch.check(trainer, module)
    module.layer.bias.data[1] = float("inf")
    with pytest.raises(RuntimeError, match=r"step 7: weights layer\.bias are not finite"):
        watch.check(trainer, module)
    module.losses = {"d": torch.tensor(1.0), "loss": float("-inf")}
    watch = TerminateOnNaN()
    watch.on_train_batch_end(trainer, module)
    with pytest.raises(RuntimeError, match="step 7: loss loss is -inf"):
        watch.on_train_batch_end(trainer, module)


def test_anomaly_detection_names_the_operation(monkeypatch, capsys):
    monkeypatch.setenv("TOY_NAN", "2")
    assert main([*FIT, "--trainer.detect_anomaly=true"]) == 3
    assert "in the backward pass, Function 'MulBackward0' returned nan values" in capsys.readouterr().err


def test_an_interrupted_evaluation_is_repeated(monkeypatch):
    monkeypatch.setenv("TOY_VALIDATION_SIGNAL", "1")
    assert main([*FIT, "--trainer.val_check_interval=2"]) == 143
    monkeypatch.delenv("TOY_VALIDATION_SIGNAL")
    assert main(["fit", "--run_dir", "run", "--trust"]) == 0
    rows = list(csv.DictReader((RUN / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["mean_weight"]] == ["1", "3"]
    assert [row["step"] for row in rows if row["loss/generator"]] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_chaos_in_short():
    """In a separate process: it forks, which is safe only before OpenGL is used."""
    options = ["--kills=3", "--terms=1", "--modules=dcgan", "--phases=checkpointing,evaluating,rendering"]
    done = subprocess.run([sys.executable, kill_and_resume.__file__, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SIGKILL ") == 3 and done.stdout.count("SIGTERM ") == 1
    assert done.stdout.endswith("all bit-identical\n")


@pytest.mark.slow
def test_a_killed_run_resumes(environment, workplace):
    environment["TOY_SIGNALS"] = "3:SIGKILL"
    argv = [sys.executable, "-m", "trainer", *FIT, "--checkpoint_minutes=0"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=workplace)
    assert done.returncode == -signal.SIGKILL
    assert RunDirectory(RUN).metadata["status"] == "running" and RunDirectory(RUN).status == "interrupted"
    assert steps_of() == 2
    assert main(FIT) == 0
    assert main([*FIT[:-1], "whole"]) == 0
    assert (RUN / "metrics.csv").read_text() == Path("whole/metrics.csv").read_text()
    first, second = (torch.load(p / "checkpoints/last.ckpt", weights_only=True) for p in (RUN, Path("whole")))
    assert kill_and_resume.equal(first["state_dict"], second["state_dict"])
    assert kill_and_resume.equal(first["optimizer_states"], second["optimizer_states"])


@pytest.mark.slow
def test_resumed_metrics_have_values_that_only_some_steps_compute(monkeypatch):
    """R1 and the proxy's loss: every row has the newest value."""
    monkeypatch.setenv("UNRENDER_CACHE", "cache")
    fit = ["fit", *kill_and_resume.MODULES["iggan_deferred"], *kill_and_resume.TINY]
    assert main([*fit, "--run_dir=whole"]) == 0
    evaluated = RunCheckpoint.on_validation_end

    def stop(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        evaluated(*args)

    with monkeypatch.context() as patched:
        patched.setattr(RunCheckpoint, "on_validation_end", stop)
        assert main([*fit, "--run_dir=run"]) == 143
    assert main(["fit", "--run_dir=run"]) == 0
    rows = [list(csv.DictReader(Path(p, "metrics.csv").read_text().splitlines())) for p in ("run", "whole")]
    assert rows[0] == rows[1]
    trained = [row for row in rows[0] if row["d"]]
    assert len(trained) == 12 and all(row["r"] and row["r1"] for row in trained)
    assert len({row["r"] for row in trained}) == 3 and len({row["r1"] for row in trained}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("done", ["finished", "interrupted", "evaluated"])
def test_a_lengthened_run_equals_one_of_that_length(done, capsys, monkeypatch, refused):
    monkeypatch.setenv("UNRENDER_CACHE", "cache")
    fit = ["fit", *kill_and_resume.MODULES["dcgan"], *kill_and_resume.TINY]
    assert main([*fit, "--run_dir=whole", "--data.total_kimg=0.032"]) == 0
    kimg = "0.024" if done == "evaluated" else "0.02"
    short = [*fit, "--run_dir=run", f"--data.total_kimg={kimg}"]
    if done == "evaluated":  # the last checkpoint is that of the evaluation after the last step
        assert main(short) == 0
        Path("run/checkpoints/last.ckpt").unlink()
    elif done == "finished":
        assert main(short) == 0
    else:
        with monkeypatch.context() as patched:
            patched.setattr(RunCheckpoint, "on_validation_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            assert main(short) == 143
    assert f"total_kimg {kimg}, not 0.016" in refused("fit", "--run_dir=run", "--data.total_kimg=0.016")
    capsys.readouterr()
    assert main(["fit", "--run_dir=run", "--data.total_kimg=0.032"]) == 0
    assert f"run resumes with data.init_args.total_kimg 0.032 (was {kimg})" in capsys.readouterr().out
    first, second = (torch.load(Path(p, "checkpoints/last.ckpt"), weights_only=True) for p in ("run", "whole"))
    assert kill_and_resume.equal(first["state_dict"], second["state_dict"])
    assert kill_and_resume.equal(first["optimizer_states"], second["optimizer_states"])
    assert first["clock"] == second["clock"]
    rows = [csv.DictReader(Path(p, "metrics.csv").read_text().splitlines()) for p in ("run", "whole")]
    rows = [[row["step"] for row in table if row["d"]] for table in rows]
    assert rows[0] == rows[1] == list("12345678")
    assert main(["fit", "--run_dir=run"]) == 0 and "already finished" in capsys.readouterr().out
