"""The folder that a training leaves behind, and its run_metadata ``run.json``."""

import json
import platform
import re
import shlex
import subprocess
import tomllib
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from callbacks.metrics_log import METRICS, read_metrics
from utils.errors import InputError
from utils.files import write_atomically
from callbacks.loggers import csv
from trainer.runs.run_lock import is_alive, process_identity
from trainer.cli.arguments import RUNS

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "jsonargparse", "omegaconf")


class RunDirectory:
    """One run: ``config.yaml``, ``command.txt``, ``version.json``, ``run.json``, ``metrics.csv`` and ``checkpoints/``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._claimed: list[Path] = []  # what :meth:`claim` made, to be given up if the run never starts
        self._before: dict[str, Any] = {}  # the run_metadata as :meth:`take_over` found it

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def metadata_file(self) -> Path:
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def run_metadata(self) -> dict[str, Any]:
        """``run.json``, or nothing where there is none that can be read."""
        try:
            run_metadata = json.loads(self.metadata_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return run_metadata if isinstance(run_metadata, dict) else {}

    @property
    def status(self) -> str:
        """``not run``, ``running``, ``finished``, ``failed`` or ``interrupted``, which a killed run could not write down."""
        run_metadata = self.run_metadata
        status = run_metadata.get("status", "interrupted" if self.holds_run() else "not run")
        if status not in ("starting", "running"):
            return status
        return "running" if is_alive(run_metadata, self.metadata_file) else "interrupted"

    @property
    def settings(self) -> dict[str, Any]:
        """``config.yaml``: what was run; empty where nothing can be read."""
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return {}
        return values if isinstance(values, dict) else {}

    def holds_run(self) -> bool:
        """Whether a training has been started here."""
        return self.metadata_file.exists()

    @classmethod
    def next(cls, experiment: str) -> "RunDirectory":
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
            run._create_metadata()
            return run

    def claim(self) -> None:
        """Take the folder for a new run.

        Raises:
            InputError: It holds one already.
        """
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._create_metadata()
        except FileExistsError:
            if self.path.is_dir():
                raise InputError(f"{self.path} has just been taken by another run; name another --run_dir") from None
            raise InputError(f"--run_dir {self.path} is a file, not a folder") from None
        except OSError as error:
            raise InputError(f"--run_dir {self.path} cannot be made: {error.strerror}") from None
        self._claimed += missing

    def _create_metadata(self) -> None:
        with self.metadata_file.open("x", encoding="utf-8") as file:
            json.dump({"status": "starting", "started": _now()} | process_identity(), file)
        self._claimed.insert(0, self.metadata_file)

    def take_over(self) -> None:
        """Take the run that was begun here, to go on with it.

        Raises:
            InputError: Its process lives.
        """
        self._before = run_metadata = self.run_metadata
        if run_metadata.get("status") in ("starting", "running") and is_alive(run_metadata, self.metadata_file, wait=True):
            who = f"process {run_metadata['pid']} on {run_metadata.get('host', 'this machine').partition(' ')[0]}"
            raise InputError(f"{self.path} is being trained by {who}; stop it first, or name another --run_dir")
        self._write_metadata(run_metadata | {"status": "starting"} | process_identity())

    def move_aside(self) -> Path:
        """Give the folder the name ``<name>.before-<n>``, whole, so that its place is free; returns the new path.

        Raises:
            InputError: Its process lives, or the folder cannot be moved.
        """
        if self.status == "running":
            raise InputError(f"{self.path} is being trained by process {self.run_metadata['pid']}; stop it first")
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.before-{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
        except OSError as error:
            raise InputError(f"{self.path} cannot be moved to {aside}: {error.strerror}; move it yourself") from error
        return aside

    def cut_back(self, step: int) -> None:
        """Drop what was logged after ``step``, which is going to be logged again, and what interrupted writings left."""
        csv.cut_back(self.path / csv.NAME, step)
        lines = [line for line in read_metrics(self.path) if line["step"] <= step]
        if lines:
            write(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
        else:
            (self.path / METRICS).unlink(missing_ok=True)
        for path in self.path.rglob(".*"):
            if re.fullmatch(r"\..+\.([a-z0-9_]{8}|new)", path.name) and path.is_file():
                path.unlink()

    def holds_nothing(self) -> bool:
        """Whether a run that was begun by this start has made nothing yet: only what :meth:`start` wrote is there."""
        own = set(self._claimed)
        return bool(own) and own.issuperset(self.path.iterdir())

    def give_up(self) -> None:
        """Remove what :meth:`claim` and :meth:`start` made, unless somebody has put something in it; or leave the run as
        it was.
        """
        if self._before:
            self._write_metadata(self._before)
            self._before = {}
            return
        for path in self._claimed:
            try:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            except OSError:
                break
        self._claimed = []

    def start(self, experiment: str, command: list[str], config: str) -> None:
        """Write down what is being run. A continued run keeps its earlier command lines."""
        if self._claimed:
            files = ("config.yaml", "command.txt", "version.json")
            self._claimed = [*(self.path / name for name in files), *self._claimed]
        write(self.config, config)
        commands = self.path / "command.txt"
        earlier = commands.read_text(encoding="utf-8") if commands.exists() else ""
        write(commands, f"{earlier}{shlex.join(['python', '-m', 'trainer', *command])}\n")
        write(self.path / "version.json", json.dumps(versions(), indent=2) + "\n")
        before = self.run_metadata
        entry = {"status": "running", "experiment": experiment, "started": before.get("started", _now())}
        entry |= {key: before[key] for key in ("wandb",) if key in before}
        if earlier:
            entry["continued"] = _now()
        self._write_metadata(entry | process_identity())

    def wandb_id(self) -> str:
        """The name under which Weights & Biases knows this run, made once, so that a resumed run goes on there too."""
        run_metadata = self.run_metadata
        if "wandb" not in run_metadata:
            run_metadata["wandb"] = uuid.uuid4().hex[:8]
            self._write_metadata(run_metadata)
        return run_metadata["wandb"]

    def end(self, status: str, **facts: Any) -> None:
        """Close the run_metadata with ``finished``, ``interrupted`` or ``failed``."""
        self._write_metadata(self.run_metadata | {"status": status, "ended": _now()} | facts)

    def _write_metadata(self, entry: dict[str, Any]) -> None:
        write(self.metadata_file, json.dumps(entry, indent=2) + "\n")


def newest_run(experiment: str, finished: bool) -> RunDirectory | None:
    """The newest run of an experiment that has a last checkpoint, among the finished ones or among all."""
    runs = [RunDirectory(p.parent) for p in (RUNS / experiment).glob("*/run.json")]
    runs = [r for r in runs if r.last_checkpoint.is_file() and (not finished or r.run_metadata.get("status") == "finished")]
    return max(runs, key=lambda r: r.last_checkpoint.stat().st_mtime, default=None)


def run_of(checkpoint: Path) -> RunDirectory | None:
    """The run that a checkpoint lies in, if it lies in one."""
    run = RunDirectory(checkpoint.parent.parent)
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
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8") and None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _checkout_version() -> str | None:
    """The version of a checkout that is used without being installed."""
    path = ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] if path.is_file() else None


def _git_commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
