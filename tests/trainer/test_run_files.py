"""The files of a run: written completely or not at all, kept, cut back and removed."""

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from toy_runs import LAST, stop_at

from callbacks.checkpointing import RunCheckpoint
from callbacks.loggers.csv import drop_rows_after
from trainer.cli.run_errors import disk_error
from trainer.runs.checkpoints import AtomicCheckpointIO
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.files import write_atomically
from utils.signals import Signals


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv", "run.json", "config.yaml", "composed.yaml"])
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


def test_a_run_that_the_disk_does_not_take_leaves_nothing(monkeypatch):
    def dump(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainer.runs.run_directory.json.dump", dump)
    for create in (RunDirectory("new/run").create, lambda: RunDirectory.create_next("toy")):
        with pytest.raises(InputError, match="cannot be created: No space left on device"):
            create()
    assert not Path("new").exists() and not Path("runs").exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", lambda path: path.write_text("text"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_damaged_version_is_unknown(tmp_path):
    (tmp_path / "version.json").write_text("[" * 100_000)
    assert RunDirectory(tmp_path).versions == {}


def test_only_numbers_count_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("002", "old", "²"):
        (tmp_path / "runs" / "toy" / name).mkdir(parents=True)
    run = RunDirectory.create_next("toy")
    assert run.path == Path("runs/toy/003")
    run.release()
    assert sorted(path.name for path in (tmp_path / "runs" / "toy").iterdir()) == ["002", "old", "²"]


@pytest.mark.slow
def test_a_failed_write_keeps_the_old_file(tmp_path):
    """A limit on the size of files, in a separate process."""
    code = """
import resource, sys, torch
from pathlib import Path
from trainer.cli.run_errors import disk_error
from trainer.runs.checkpoints import AtomicCheckpointIO
from trainer.cli.run_errors import disk_error
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


def test_a_protected_disk_is_not_to_be_emptied():
    for number in (errno.EROFS, errno.EACCES):
        problem, fix = disk_error(OSError(number, "", "last.ckpt")) or ("", "")
        assert "last.ckpt" in problem and "pass another directory (--run_dir" in fix and "free space" not in fix


def test_one_of_two_processes_that_resume_a_run_at_once_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text('{"status": "interrupted"}')
    records = RunDirectory._records

    def slow_records(run: RunDirectory) -> dict[Path, bytes | None]:
        time.sleep(0.2)  # the other reads run.json meanwhile, if nothing keeps it from that
        return records(run)

    monkeypatch.setattr(RunDirectory, "_records", slow_records)
    with ThreadPoolExecutor(2) as pool:
        errors = [pool.submit(RunDirectory(tmp_path).acquire).exception for _ in range(2)]
        messages = [str(error()) for error in errors]
    assert sorted("is being trained by" in message for message in messages) == [False, True]


def test_metrics_csv_is_cut_back(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"g,step\r\n1,0\r\n2,1\r\n3,2\r\n4,3")
    drop_rows_after(path, 1)
    assert path.read_bytes() == b"g,step\r\n1,0\r\n2,1\r\n"
    drop_rows_after(path, -1)
    assert not path.exists()
    drop_rows_after(path, 5)


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_metrics_csv_saved_by_a_spreadsheet_program_keeps_its_rows(tmp_path, end):
    path = tmp_path / "metrics.csv"
    path.write_text(end.join(["step,g", "0,1", "1,2", "2,3", ""]), encoding="utf-8-sig", newline="")
    drop_rows_after(path, 1)
    assert path.read_bytes() == b"step,g\r\n0,1\r\n1,2\r\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [("step;g\n0;1\n", "no column 'step' separated by commas"), ("step,g\n0,1,5\n", "more cells than the header")],
)
def test_metrics_csv_that_is_no_table_is_named_and_kept(tmp_path, text, word):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"metrics\.csv .*{word}"):
        drop_rows_after(path, 1)
    assert path.read_text() == text


class FakeTrainer(Trainer):
    """A trainer with the parts that RunCheckpoint uses."""

    world_size, is_global_zero, sanity_checking, global_step = 1, True, False, 0
    state = type("State", (), {"fn": "fit"})
    strategy = type("Strategy", (), {"barrier": lambda self, name: None})()

    def __init__(self, module: LightningModule) -> None:
        self.module = module

    def save_checkpoint(self, path: Path) -> None:
        AtomicCheckpointIO().save_checkpoint({"step": self.module.step}, path)


def test_command_lines_may_contain_line_breaks(tmp_path):
    run, resumed = RunDirectory(tmp_path), ["fit", "--run_dir", "a b"]
    first = ["fit", '--trainer.callbacks+={\n  "class_path": "it\'s"\n}', "--a=\n\n", "--b=\u2028"]
    assert run.commands() == []
    for words in (first, resumed):
        run.start("toy", words, "")
    assert run.commands() == [["python", "-m", "trainer", *words] for words in (first, resumed)]
    for content in (b"python 'fit", b"\xff"):
        (tmp_path / "command.txt").write_bytes(content)
        with pytest.raises(InputError, match=r"command.txt is not a list of command lines"):
            run.commands()


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


def test_a_run_that_cannot_be_moved_is_reported(monkeypatch, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.end("failed")

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(InputError, match=r"cannot be moved to .*before-1: Device or resource busy"):
        run.move_aside()
