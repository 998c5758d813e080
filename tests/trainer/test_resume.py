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
from pathlib import Path

import kill_and_resume
import pytest
import torch
import yaml
from pytorch_lightning import LightningModule, Trainer

from callbacks.checkpointing import RunCheckpoint
from callbacks.loggers.csv import drop_rows_after
from callbacks.nan_guard import TerminateOnNaN
from trainer.__main__ import main
from trainer.runs import resume, run_lock
from trainer.runs.checkpoints import AtomicCheckpointIO
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.files import write_atomically
from utils.signals import Signals

RUN = Path("run")
FIT = ["fit", "--config", "toy.yaml", "--run_dir", "run"]
LAST = RUN / "checkpoints/last.ckpt"


def stop_at(monkeypatch, step: int, *argv: str) -> None:
    """Train up to a step and stop by SIGTERM."""
    with monkeypatch.context() as patched:
        patched.setenv("TOY_SIGNALS", f"{step}:SIGTERM")
        assert main([*FIT, *argv]) == 143


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


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv", "run.json", "config.yaml"])
def test_a_full_disk_is_reported_in_one_sentence(monkeypatch, refused, name):
    stop_at(monkeypatch, 2)
    before = LAST.read_bytes()
    real = os.fsync

    def full(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink().name
        if name in target:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    if name == "metrics.csv":
        from callbacks.loggers.csv import ExperimentWriter

        def save(_: ExperimentWriter) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(ExperimentWriter, "save", save)
    else:
        monkeypatch.setattr(os, "fsync", full)
    message = refused("fit", "--run_dir", "run", "--trust")
    assert f"{name} could not be written: the disk is full" in message
    assert name not in ("last.ckpt", "metrics.csv") or f"the last valid checkpoint is {LAST}" in message
    assert LAST.read_bytes() == before
    monkeypatch.undo()


@pytest.mark.slow
def test_a_failed_write_keeps_the_old_file(tmp_path):
    """A limit on the size of files, in a separate process."""
    code = """
import resource, sys, torch
from pathlib import Path
from trainer.runs.checkpoints import AtomicCheckpointIO
from trainer.cli.error_messages import disk_error
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
AtomicCheckpointIO().save_checkpoint({"small": torch.zeros(10)}, path)
try:
    AtomicCheckpointIO().save_checkpoint({"large": torch.zeros(100_000)}, path)
except OSError as error:
    print("; ".join(disk_error(error)))
assert "small" in torch.load(path, weights_only=True)
assert [p.name for p in path.parent.iterdir()] == [path.name]
"""
    path = tmp_path / "checkpoints" / "last.ckpt"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True)
    problem = f"{path} could not be written: the file is larger than the system allows"
    assert done.stdout == f"{problem}; free space and run the command again\n", done.stderr


def test_metrics_csv_is_cut_back(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"g,step\r\n1,0\r\n2,1\r\n3,2\r\n4,3")
    drop_rows_after(path, 1)
    assert path.read_bytes() == b"g,step\r\n1,0\r\n2,1\r\n"
    drop_rows_after(path, -1)
    assert not path.exists()
    drop_rows_after(path, 5)


class FakeTrainer(Trainer):
    """A trainer with the parts that RunCheckpoint uses."""

    world_size, is_global_zero, sanity_checking, global_step = 1, True, False, 0
    state = type("State", (), {"fn": "fit"})
    strategy = type("Strategy", (), {"barrier": lambda self, name: None})()

    def __init__(self, module: LightningModule) -> None:
        self.module = module

    def save_checkpoint(self, path: Path) -> None:
        AtomicCheckpointIO().save_checkpoint({"step": self.module.step}, path)


def test_the_best_and_the_newest_checkpoints_are_kept(tmp_path):
    folder, module = tmp_path / "checkpoints", LightningModule()
    module.step, module.evaluation_note, module.evaluation = 0, "one", {}
    trainer = FakeTrainer(module)
    keeper = RunCheckpoint(folder, 1, 2, Signals(), lambda *_: None)
    keeper.on_train_start(trainer, module)

    def kept(name: str) -> int:
        return torch.load(folder / f"{name}.ckpt", weights_only=True)["step"]

    best = []
    for step, fid in enumerate((9.0, 7.0, float("nan"), 8.0, 7.0), 1):
        module.step, module.evaluation = step, {"fid": fid}
        keeper.on_validation_end(trainer, module)
        best.append(kept("best"))
        assert kept("last") == step and (step == 1 or kept("previous") == step - 1)
    assert best == [1, 2, 2, 2, 2]
    module.step, module.evaluation, module.evaluation_note = 6, {"kid": 3.0, "kid_std": 0.1}, "two"  # not comparable
    keeper.on_validation_end(trainer, module)
    assert kept("best") == 6
    assert sorted(p.name for p in folder.iterdir()) == [
        *("best.ckpt", "last.ckpt", "previous.ckpt", "step-000000005.ckpt", "step-000000006.ckpt"),
    ]
    again = RunCheckpoint(folder, 1, 2, Signals(), lambda *_: None)
    again.load_state_dict(keeper.state_dict())
    assert again.best == {"metric": "kid", "note": "two", "value": 3.0}
    module.step, module.evaluation = 7, {"kid": 1.0, "kid_std": 0.1, "sfid": 50.0}  # KID is no longer followed
    again.on_train_start(trainer, module)
    again.on_validation_end(trainer, module)
    assert again.best["metric"] == "sfid" and kept("best") == 7


def test_an_interrupted_evaluation_is_repeated(monkeypatch):
    monkeypatch.setenv("TOY_VALIDATION_SIGNAL", "1")
    assert main([*FIT, "--trainer.val_check_interval=2"]) == 143
    monkeypatch.delenv("TOY_VALIDATION_SIGNAL")
    assert main(["fit", "--run_dir", "run", "--trust"]) == 0
    rows = list(csv.DictReader((RUN / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["mean_weight"]] == ["1", "3"]
    assert [row["step"] for row in rows if row["loss/generator"]] == ["0", "1", "2", "3"]


def test_a_run_that_cannot_be_moved_is_reported(monkeypatch, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.end("failed")

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(InputError, match=r"cannot be moved to .*before-1: Device or resource busy"):
        run.move_aside()


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
@pytest.mark.parametrize("done", ["finished", "interrupted"])
def test_a_lengthened_run_equals_one_of_that_length(done, capsys, monkeypatch, refused):
    monkeypatch.setenv("UNRENDER_CACHE", "cache")
    fit = ["fit", *kill_and_resume.MODULES["dcgan"], *kill_and_resume.TINY]
    assert main([*fit, "--run_dir=whole", "--data.total_kimg=0.032"]) == 0
    short = [*fit, "--run_dir=run", "--data.total_kimg=0.02"]
    if done == "finished":
        assert main(short) == 0
    else:
        with monkeypatch.context() as patched:
            patched.setattr(RunCheckpoint, "on_validation_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            assert main(short) == 143
    assert "total_kimg 0.02, not 0.016" in refused("fit", "--run_dir=run", "--data.total_kimg=0.016")
    capsys.readouterr()
    assert main(["fit", "--run_dir=run", "--data.total_kimg=0.032"]) == 0
    assert "run resumes with data.init_args.total_kimg 0.032 (was 0.02)" in capsys.readouterr().out
    first, second = (torch.load(Path(p, "checkpoints/last.ckpt"), weights_only=True) for p in ("run", "whole"))
    assert kill_and_resume.equal(first["state_dict"], second["state_dict"])
    assert kill_and_resume.equal(first["optimizer_states"], second["optimizer_states"])
    assert first["clock"] == second["clock"]
    rows = [csv.DictReader(Path(p, "metrics.csv").read_text().splitlines()) for p in ("run", "whole")]
    rows = [[row["step"] for row in table if row["d"]] for table in rows]
    assert rows[0] == rows[1] == list("12345678")
    assert main(["fit", "--run_dir=run"]) == 0 and "already finished" in capsys.readouterr().out


def test_a_kept_proxy_is_not_reported_as_a_change(tmp_path):
    run = RunDirectory(tmp_path)
    before = {"model": {"init_args": {"proxy_checkpoint": "runs/proxy/001/last.ckpt"}}, "data": {"root": "here"}}
    run.config.write_text(yaml.safe_dump(before))
    after = {"model": {"init_args": {"proxy_checkpoint": "proxy.yaml"}}, "data": {"root": "there"}}
    assert resume.changes(run, after) == ["data.root there (was here)"]
    assert resume.known_proxy(run) == "runs/proxy/001/last.ckpt"


def test_a_run_whose_learning_rate_falls_to_zero_cannot_become_longer(tmp_path):
    """It would end with other weights than a run that was started with the longer length."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()

    def settings(kimg: float, name: str, **options) -> dict:
        model = {"class_path": f"lightning_modules.{name}", "init_args": options}
        return {"model": model, "data": {"init_args": {"total_kimg": kimg}}}

    for name, options in (("NeuralRendererModule", {"decay_learning_rate": True}), ("RenderClassifierModule", {})):
        run.config.write_text(yaml.safe_dump(settings(2.0, name, **options)))
        assert resume.changes(run, settings(2.0, name, **options)) == []
        with pytest.raises(
            InputError, match="run falls to 0 at its 2 kimg, so it cannot become longer; train the longer run"
        ):
            resume.changes(run, settings(3.0, name, **options))
    constant = {"name": "NeuralRendererModule", "decay_learning_rate": False}
    run.config.write_text(yaml.safe_dump(settings(2.0, **constant)))
    assert resume.changes(run, settings(3.0, **constant)) == ["data.init_args.total_kimg 3.0 (was 2.0)"]


def test_a_part_that_appears_or_disappears_is_a_change(tmp_path):
    """Such as an augmentation: null on one side, a class with arguments on the other."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    part = {"class_path": "networks.DiffAugment", "init_args": {"mirror": True}}
    without, with_part = ({"model": {"init_args": {"augment": augment}}} for augment in (None, part))
    for before, after, message, different in (
        (without, with_part, "augment None, not networks.DiffAugment", {"class_path", "init_args.mirror"}),
        (with_part, without, "augment networks.DiffAugment, not None", {""}),
    ):
        run.config.write_text(yaml.safe_dump(before))
        with pytest.raises(InputError, match=f"run was started with model.init_args.{message}; drop this change"):
            resume.changes(run, after)
        keys = {f"model.init_args.augment.{name}".rstrip(".") for name in different}
        assert resume.differences(run, after).keys() == keys
        assert resume.changes(run, before) == [] and resume.differences(run, before) == {}
    new = {"model": {"init_args": {"augment": part, "later": {"class_path": "x.Y"}}}}  # unknown to the run's version
    run.config.write_text(yaml.safe_dump(with_part))
    assert resume.changes(run, new) == []


def test_only_files_of_killed_writers_are_removed(tmp_path):
    run = RunDirectory(tmp_path)
    kept = [".env.template", ".htpasswd.disabled", ".bashrc.new", "code/.config.original"]
    left = [".run.json3f9a01bc.unrender-tmp", "samples/.000.png_a1b2c3d4.unrender-tmp", "checkpoints/.last.ckpt.new"]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = []

    def write(file: Path) -> None:
        names.append(file.name)

    write_atomically(tmp_path / "metrics.csv", write)
    assert names[0].startswith(".metrics.csv") and names[0].endswith(".unrender-tmp")
    run.truncate_logs(0)
    assert all((tmp_path / name).exists() for name in kept) and not any((tmp_path / name).exists() for name in left)
