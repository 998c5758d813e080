"""The folder that a training leaves behind, and its diary ``run.json``."""

import json
import os
import platform
import shlex
import socket
import subprocess
import tomllib
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from renderers.errors import InputError
from trainer.parsers import RUNS

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "jsonargparse", "omegaconf")


class RunFolder:
    """One run: ``config.yaml``, ``command.txt``, ``version.json``, ``run.json``, ``metrics.csv`` and ``checkpoints/``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._claimed: list[Path] = []  # what :meth:`claim` made, to be given up if the run never starts

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def diary(self) -> dict[str, Any]:
        """``run.json``, or nothing where there is none that can be read."""
        try:
            diary = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return diary if isinstance(diary, dict) else {}

    def holds_run(self) -> bool:
        """Whether a training has been started here."""
        return (self.path / "run.json").exists()

    @classmethod
    def next(cls, experiment: str) -> "RunFolder":
        """Make the next free ``runs/<experiment>/<NNN>``; ``mkdir`` decides when two start at once."""
        parent = RUNS / experiment
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0)
        while True:
            run = cls(parent / f"{number:03d}")
            try:
                run.path.mkdir()
            except FileExistsError:
                number += 1
                continue
            run._claimed = [run.path, parent, RUNS]
            run._open_diary()
            return run

    def claim(self) -> None:
        """Take the folder for a new run.

        Raises:
            InputError: It holds one already.
        """
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._open_diary()
        except FileExistsError:
            if self.path.is_dir():
                cure = "continue it with --ckpt_path last, or name another --run_dir"
                raise InputError(f"{self.path} already holds a run; {cure}") from None
            raise InputError(f"--run_dir {self.path} is a file, not a folder") from None
        except OSError as error:
            raise InputError(f"--run_dir {self.path} cannot be made: {error.strerror}") from None
        self._claimed += missing

    def _open_diary(self) -> None:
        with (self.path / "run.json").open("x", encoding="utf-8") as file:
            json.dump({"status": "starting", "started": _now()}, file)
        self._claimed.insert(0, self.path / "run.json")

    def give_up(self) -> None:
        """Remove what :meth:`claim` made, unless somebody has put something in it."""
        for path in self._claimed:
            try:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
            except OSError:
                break
        self._claimed = []

    def start(self, experiment: str, command: list[str], config: str) -> None:
        """Write down what is being run. A continued run keeps its earlier command lines."""
        self._claimed = []
        write(self.config, config)
        commands = self.path / "command.txt"
        earlier = commands.read_text(encoding="utf-8") if commands.exists() else ""
        write(commands, f"{earlier}{shlex.join(['python', '-m', 'trainer', *command])}\n")
        write(self.path / "version.json", json.dumps(versions(), indent=2) + "\n")
        started = self.diary.get("started", _now())
        entry = {"status": "running", "experiment": experiment, "started": started}
        if earlier:
            entry["continued"] = _now()
        self._write_diary(entry | {"pid": os.getpid(), "host": socket.gethostname()})

    def end(self, status: str, **facts: Any) -> None:
        """Close the diary with ``finished``, ``interrupted`` or ``failed``."""
        self._write_diary(self.diary | {"status": status, "ended": _now()} | facts)

    def _write_diary(self, entry: dict[str, Any]) -> None:
        write(self.path / "run.json", json.dumps(entry, indent=2) + "\n")

    def logger(self) -> "MetricsCsv":
        """The logger that writes ``metrics.csv`` here."""
        return MetricsCsv(self.path)


class MetricsCsv(CSVLogger):
    """``metrics.csv`` directly in a folder, continued where an earlier part of the run left it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="")

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _Appending(log_dir=self.log_dir)
        return self._experiment

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Leave them out: ``config.yaml`` beside this file has them all."""


class _Appending(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep the rows that are there; the parent's would delete them."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            header = path.read_text(encoding="utf-8").partition("\n")[0].strip()
            self.metrics_keys = header.split(",") if header else []


def newest_run(experiment: str, finished: bool) -> RunFolder | None:
    """The newest run of an experiment that has a last checkpoint, among the finished ones or among all."""
    runs = [RunFolder(p.parent) for p in (RUNS / experiment).glob("*/run.json")]
    runs = [r for r in runs if r.last_checkpoint.is_file() and (not finished or r.diary.get("status") == "finished")]
    return max(runs, key=lambda r: r.last_checkpoint.stat().st_mtime, default=None)


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run that a checkpoint lies in, if it lies in one."""
    run = RunFolder(checkpoint.parent.parent)
    return run if checkpoint.parent.name == "checkpoints" and run.holds_run() else None


def versions() -> dict[str, Any]:
    """What the run was made with."""
    return {
        "unrender": _version("unrender") or _checkout_version(),
        "git": _git_commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def write(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _checkout_version() -> str | None:
    """The version of a checkout that is used without being installed."""
    path = Path(__file__).parent.parent / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] if path.is_file() else None


def _git_commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
