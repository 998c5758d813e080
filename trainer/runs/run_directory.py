"""The directory of a training run and its state file ``run.json``."""

import fcntl
import json
import platform
import re
import shlex
import subprocess
import tomllib
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import yaml

from callbacks.loggers.csv import NAME as METRICS_CSV
from callbacks.loggers.csv import drop_rows_after
from callbacks.metrics_log import METRICS, read_metrics
from trainer.cli.arguments import RUNS
from trainer.cli.config_composition import Composed, compose
from trainer.cli.config_yaml import load_yaml
from trainer.runs.child_processes import TRAINER
from trainer.runs.run_lock import is_alive, process_identity
from utils.errors import InputError
from utils.files import TEMPORARY, write_atomically, write_text

ROOT = Path(__file__).parents[2]
WANDB_SETTINGS = ("project", "entity", "name", "group")  # stored in run.json, beside the id
RECORDS = ("config.yaml", "command.txt", "version.json", "run.json", METRICS_CSV, METRICS)
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "jsonargparse", "omegaconf")


class RunDirectory:
    """One run: ``config.yaml``, ``command.txt``, ``version.json``, ``run.json``, ``metrics.csv`` and ``checkpoints/``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._created: list[Path] = []  # removed by release() if the run never starts
        self._previous: dict[Path, bytes | None] = {}  # the records before acquire(), restored by release()

    def __str__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunDirectory) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())

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
    def metadata(self) -> dict[str, Any]:
        """The content of ``run.json`` without values of a wrong type; empty if the file does not exist or cannot be read."""
        return {k: v for k, v in _read_json(self.metadata_file).items() if _is_metadata(k, v)}

    @property
    def experiment(self) -> str | None:
        """Name of the experiment, which is also the name of a directory."""
        name = self.metadata.get("experiment", "")
        return name if re.fullmatch(r"\w[\w.+ -]*", name) else None

    @property
    def status(self) -> str:
        """``not run``, ``running``, ``finished``, ``failed`` or ``interrupted``.

        A run whose process was killed could not record that; it counts as interrupted.
        """
        metadata = self.metadata
        status = metadata.get("status", "interrupted" if self.holds_run() else "not run")
        if status not in ("starting", "running"):
            return status
        return "running" if is_alive(metadata, self.metadata_file) else "interrupted"

    @property
    def settings(self) -> dict[str, Any]:
        """The content of ``config.yaml``; empty if the file does not exist or cannot be read."""
        try:
            return load_yaml(self.config, yaml.SafeLoader)
        except InputError:
            return {}

    @property
    def versions(self) -> dict[str, Any]:
        """The content of ``version.json``; empty if the file does not exist or cannot be read."""
        return _read_json(self.path / "version.json")

    def compose(self, names: Iterable[str | Path] = (), parts: Mapping[str, str] | None = None) -> Composed:
        """Compose ``config.yaml`` with the configs and parts that are merged over it."""
        return compose([self.config, *names], parts)

    def commands(self) -> list[list[str]]:
        """The words of the command lines that started and resumed the run; a quoted word may contain line breaks.

        Raises:
            InputError: ``command.txt`` has anything else.
        """
        path, commands, command = self.path / "command.txt", [], ""
        try:
            for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.is_file() else []:
                command += line
                try:
                    commands.append(shlex.split(command))
                    command = ""
                except ValueError:  # a quote that a later line closes
                    command += "\n"
            if command:
                shlex.split(command)
        except ValueError as error:  # also of text that is not UTF-8
            raise InputError(f"{path} is not a list of command lines ({error}); correct it") from error
        return commands

    def holds_run(self) -> bool:
        """Whether a training was started here."""
        return self.metadata_file.exists()

    @classmethod
    def create_next(cls, experiment: str) -> "RunDirectory":
        """Create the next free ``runs/<experiment>/<NNN>``. Safe when two processes do so at once."""
        parent = RUNS / experiment
        number = 1 + max((int(p.name) for p in parent.glob("*") if p.name.isdecimal()), default=0)
        while not (run := cls(parent / f"{number:03d}"))._create():
            number += 1
        run._created = [run.metadata_file, run.path, parent, RUNS]  # the last of several that start at once removes all
        return run

    def create(self) -> None:
        """Create the directory for a new run.

        Raises:
            InputError: It holds a run already, or it cannot be created.
        """
        if not self._create():
            raise InputError(f"another run was just started in {self.path}; choose another --run_dir")

    def _create(self) -> bool:
        """Create the directory and ``run.json``; False if another process just created the file."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        if self.path.is_file():
            raise InputError(f"--run_dir {self.path} is a file, not a directory")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.metadata_file.open("x", encoding="utf-8") as file:
                json.dump({"status": "starting", "started": _now()} | process_identity(), file)
        except FileExistsError:
            return False
        except OSError as error:
            self._created = [self.metadata_file, *missing]
            self.release()
            raise InputError(
                f"run directory {self.path} cannot be created: {error.strerror}; pass another --run_dir"
            ) from error
        self._created = [self.metadata_file, *missing]
        return True

    def acquire(self) -> None:
        """Take over an existing run to resume it.

        Raises:
            InputError: Another process is training it.
        """
        with self.metadata_file.open("r+b") as file:  # of two that start at once, the second reads what the first wrote
            with suppress(OSError):  # some file systems of clusters are mounted without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            metadata = self.metadata
            active = metadata.get("status") in ("starting", "running")
            if active and is_alive(metadata, self.metadata_file, wait=True):
                process = f"process {metadata['pid']} on {metadata.get('host', 'this machine').partition(' ')[0]}"
                raise InputError(
                    f"{self.path} is being trained by {process}; stop it first or choose another --run_dir"
                )
            self._previous = self._records()
            self._write_metadata(metadata | {"status": "starting"} | process_identity())

    def release(self) -> None:
        """Undo :meth:`create`, or :meth:`acquire` and :meth:`truncate_logs`, and :meth:`start`.

        Directories that hold other files are kept.
        """
        if self._previous:
            now = self._records()
            for path, content in self._previous.items():
                if content is None:
                    path.unlink(missing_ok=True)
                elif content != now[path]:
                    _write_bytes(path, content)
            self._previous = {}
            return
        for path in self._created:
            try:
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
            except OSError:
                break
        self._created = []

    def has_no_results(self) -> bool:
        """Whether this process created the run and nothing but the files of :meth:`start` is in it."""
        created = set(self._created)
        return bool(created) and created.issuperset(self._visible())

    def check_empty(self) -> None:
        """Check that a new run would not be mixed into other files. Hidden ones, such as ``.DS_Store``, do not count.

        Raises:
            InputError: The directory holds files, but no run.
        """
        found = self.path.is_dir() and self._visible()
        if found and not self.holds_run():  # checked last: another rank may just have created the run
            raise InputError(
                f"{self.path} is not empty and holds no run (no run.json); pass a new directory for --run_dir"
            )

    def _visible(self) -> list[Path]:
        return [path for path in self.path.iterdir() if not path.name.startswith(".")]

    def _records(self) -> dict[Path, bytes | None]:
        """The content of the run's text files; None for those that do not exist."""
        paths = [self.path / name for name in RECORDS]
        return {path: path.read_bytes() if path.is_file() else None for path in paths}

    def move_aside(self) -> Path:
        """Rename the directory to ``<name>.before-<n>`` and return the new path.

        Raises:
            InputError: A process is training the run, the current directory is in it, or it cannot be renamed.
        """
        if self.status == "running":
            raise InputError(f"{self.path} is being trained by process {self.metadata['pid']}; stop it first")
        path = self.path if self.path.name not in ("", "..") else self.path.resolve()
        if Path.cwd().is_relative_to(path.resolve()):
            raise InputError(f"{path} cannot be moved aside by a command that runs in it; run the command elsewhere")
        number = 1
        while (target := path.with_name(f"{path.name}.before-{number}")).exists():
            number += 1
        try:
            path.rename(target)
        except OSError as error:
            raise InputError(f"{self.path} cannot be moved to {target}: {error.strerror}; move it yourself") from error
        return target

    def truncate_logs(self, step: int) -> None:
        """Drop what was logged after ``step``, since it will be logged again, and temporary files of killed writers."""
        drop_rows_after(self.path / METRICS_CSV, step)
        lines = [line for line in read_metrics(self.path) if line["step"] <= step]
        if lines:
            write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
        else:
            (self.path / METRICS).unlink(missing_ok=True)
        for path in [*self.path.rglob(f".*{TEMPORARY}"), *self.checkpoints.glob(".*.ckpt.new")]:
            path.unlink()

    def start(self, experiment: str, command: list[str], config: str) -> None:
        """Record what is being run. A resumed run keeps its earlier command lines."""
        if self._created:
            files = ("config.yaml", "command.txt", "version.json")
            self._created = [*(self.path / name for name in files), *self._created]
        write_text(self.config, config)
        commands = self.path / "command.txt"
        earlier = commands.read_text(encoding="utf-8", errors="replace") if commands.exists() else ""
        write_text(commands, f"{earlier}{shlex.join([*TRAINER, *command])}\n")
        write_text(self.path / "version.json", json.dumps(versions(), indent=2) + "\n")
        before = self.metadata
        metadata = {"status": "running", "experiment": experiment, "started": before.get("started", _now())}
        metadata |= {key: before[key] for key in ("wandb", "wandb_settings") if key in before}
        if earlier:
            metadata["continued"] = _now()
        self._write_metadata(metadata | process_identity())

    def wandb_settings(self, given: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """What identifies the run at Weights & Biases: its id, and the project, name and so on that are not the config's.

        They are stored when the run starts, so that a resumed run continues there, whatever its environment.

        Args:
            given: Values given as options; they replace stored ones.
            found: Values of the environment; stored ones replace them.
        """
        metadata = self.metadata
        others = metadata.get("wandb_settings", {})
        others = {k: v for k, v in others.items() if k in WANDB_SETTINGS and isinstance(v, str | None)}
        stored = {"id": metadata["wandb"]} | others if "wandb" in metadata else {}
        settings = {"id": uuid.uuid4().hex[:8], **({} if stored else found), **stored, **given}
        if settings != stored:
            others = {key: value for key, value in settings.items() if key != "id"}
            self._write_metadata(metadata | {"wandb": settings["id"], "wandb_settings": others})
        return settings

    def record(self, **values: Any) -> None:
        """Add values to ``run.json``."""
        self._write_metadata(self.metadata | values)

    def end(self, status: str) -> None:
        """Record ``finished``, ``interrupted`` or ``failed``."""
        self._write_metadata(self.metadata | {"status": status, "ended": _now()})

    def _write_metadata(self, metadata: dict[str, Any]) -> None:
        write_text(self.metadata_file, json.dumps(metadata, indent=2) + "\n")


def newest_run(
    experiment: str, finished: bool, accept: Callable[[RunDirectory], bool] = lambda _: True
) -> RunDirectory | None:
    """The newest accepted run of an experiment that has a last checkpoint, optionally among finished runs only."""
    runs = [RunDirectory(p.parent) for p in (RUNS / experiment).glob("*/run.json")]
    runs = [r for r in runs if r.last_checkpoint.is_file() and (not finished or r.metadata.get("status") == "finished")]
    runs = [r for r in runs if accept(r)]
    return max(runs, key=lambda r: r.last_checkpoint.stat().st_mtime, default=None)


def find_run(checkpoint: Path) -> RunDirectory | None:
    """The run that a checkpoint file belongs to; None if it is not in a run directory."""
    run = RunDirectory(checkpoint.parent.parent)
    return run if checkpoint.parent.name == "checkpoints" and run.holds_run() else None


def versions() -> dict[str, Any]:
    """Versions of the project and of the packages that determine a run's results."""
    return {
        "unrender": _version("unrender") or _checkout_version(),
        "git": _git_commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _is_metadata(key: str, value: Any) -> bool:
    """Whether an entry of ``run.json`` has the type that :meth:`RunDirectory.start` writes."""
    if key == "pid":
        return type(value) is int and 0 < value < 2**31
    if key == "training_data":
        counts = value.values() if isinstance(value, dict) else ()
        return isinstance(value, dict) and {"images", "models"} <= value.keys() and all(map(_is_count, counts))
    return isinstance(value, dict if key == "wandb_settings" else str)


def _is_count(value: Any) -> bool:
    return type(value) is int or value == "unlimited"


def _version(name: str) -> str | None:
    try:
        return package_metadata.version(name)
    except package_metadata.PackageNotFoundError:
        return None


def _checkout_version() -> str | None:
    """The version of a checkout that is not installed."""
    path = ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] if path.is_file() else None


def _git_commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
