"""The training runs behind a table's cells: their state, the commands that are missing, and running them."""

import csv
import fcntl
import math
import re
import shlex
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.metrics_log import read_metrics, without_shapes
from metrics.manifolds import MANIFOLD_METRICS
from metrics.shape_comparison import SHAPE_METRICS
from trainer.runs.child_processes import TRAINER, run_trainer
from trainer.runs.run_directory import RunDirectory
from trainer.tables.spec import Cell
from utils.errors import InputError
from utils.signals import STATUS, Stopped

IMAGE_METRICS = ("kid", *MANIFOLD_METRICS)  # that tables list beside FID and spatial FID
OVERFITTING = ("d_train", "d_held_out", "d_gap")  # with discriminator_gap
METRICS = (*IMAGE_METRICS, *OVERFITTING, *SHAPE_METRICS)
TRAINING_EXTRACTOR = "renders_small"  # of the evaluations during training: fast, and its weights are always available
EXECUTION_OPTIONS = (  # how a run is executed; runs that differ only in these are the same
    "--run_dir",
    "--ckpt_path",
    "--checkpoint_minutes",
    "--trainer.",
    "--data.num_workers",
    "--data.init_args.num_workers",
    "--config=logger/",
    "--config=speed/",
)
# Options of a validate that a table takes: those that it passes, and where it ran.
OWN_OPTIONS = {"model.init_args.extractor", "model.init_args.extractor_weights"}
OWN_OPTIONS |= {f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy")}


@dataclass(frozen=True)
class Measurement:
    """How FID is measured.

    Args:
        extractor: Name of the extractor.
        weights: File of weights for it.
        label: The extractor as named in results; None accepts any weights of that extractor.
    """

    extractor: str
    weights: str | None = None
    label: str | None = None

    def matches(self, line: dict[str, Any]) -> bool:
        """Return whether a line of ``metrics.jsonl`` was measured this way, with no other option changed."""
        label = re.escape(self.label) if self.label else rf"{self.extractor}( \([0-9a-f]+\))?"
        own = line.get("options", {}).keys() <= OWN_OPTIONS
        return own and re.match(rf"extractor {label},", line.get("note", "")) is not None


@dataclass(frozen=True)
class Result:
    """FID and spatial FID of a finished run, and the extractor and image counts that they were measured with.

    ``others`` are those of :data:`METRICS` that were measured. Runs of version 0.1.0 have
    neither spatial FID nor most of them.
    """

    fid: float
    note: str
    sfid: float | None = None
    others: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CellRun:
    """The run of one cell with one seed.

    Args:
        cell: The cell.
        seed: Seed of the training.
        path: The run directory.
        words: Options of the ``fit`` command, without the run directory.
        trust: Whether the run's config may name any class.
    """

    cell: Cell
    seed: int
    path: Path
    words: tuple[str, ...]
    trust: bool = False

    @property
    def name(self) -> str:
        return f"{self.cell.name}, seed {self.seed}" if self.seed else self.cell.name

    @property
    def folder(self) -> RunDirectory:
        return RunDirectory(self.path)

    @property
    def status(self) -> str:
        """``not run``, ``running``, ``finished``, or how an unfinished run ended."""
        return self.folder.status

    def result(self, measurement: Measurement) -> Result | None:
        """Return the result at the end of a finished run, from its last evaluation or a later ``validate``."""
        if self.status != "finished":
            return None
        last = read_metrics(self.path)[-1:]
        step = last[0].get("step", 0) if last else 0
        validations = [line for line in read_metrics(self.path / "validate") if line.get("step", 0) >= step]
        for line in [*last, *reversed(validations)]:
            if measurement.matches(line) and math.isfinite(line.get("fid", math.nan)):
                others = {name: line[name] for name in METRICS if name in line}
                return Result(line["fid"], without_shapes(line["note"]), line.get("sfid"), others)
        return None

    def progress(self) -> str:
        """Return the progress of an unfinished run, such as ``12 of 60 kimg``; empty if unknown."""
        try:
            total = f"{self.folder.settings['data']['init_args']['total_kimg']:g}"
        except (KeyError, TypeError, ValueError):  # a run without a length, or with an invalid config
            total = ""
        return f"{self.kimg:.3g} of {total} kimg" if total else ""

    @property
    def kimg(self) -> float:
        """Thousand images seen according to the logs."""
        values = [line.get("kimg", 0) for line in read_metrics(self.path)]
        try:
            with (self.path / "metrics.csv").open(encoding="utf-8-sig", newline="") as file:
                values += [float(row["kimg"]) for row in csv.DictReader(file) if row.get("kimg")]
        except (OSError, ValueError, csv.Error):
            pass
        return max(values, default=0.0)

    def check(self) -> None:
        """Check that an existing run was started with the same options.

        Raises:
            InputError: The run directory contains a run with other options.
        """
        existing, requested = _started_with(self.path), _training_options(self.words)
        if existing is not None and existing != requested:
            old, new = (" ".join(sorted(words)) or "nothing" for words in (existing - requested, requested - existing))
            raise InputError(
                f"{self.path} contains a run with other options: {old} instead of {new}; pass the same options, remove it, "
                "or pass another directory by --runs"
            )

    def missing_commands(self, measurement: Measurement, extra: Iterable[str] = ()) -> list[list[str]]:
        """Return the commands that are still needed for a result measured this way, in order; empty if it exists."""
        run_dir = ["--run_dir", str(self.path)]
        trusted = [*run_dir, "--trust"] if self.trust else run_dir
        commands = []
        if self.status != "finished":
            resumes = self.folder.last_checkpoint.is_file()
            commands.append(["fit", *trusted, *extra] if resumes else ["fit", *self.words, *run_dir])
        measured_by_fit = measurement.extractor == TRAINING_EXTRACTOR and measurement.weights is None
        if self.result(measurement) is None and not (commands and measured_by_fit):
            weights = [f"--model.extractor_weights={measurement.weights}"] if measurement.weights else []
            commands.append(["validate", *trusted, f"--model.extractor={measurement.extractor}", *weights])
        return commands

    def must_restart(self) -> bool:
        """Return whether the run directory contains an unfinished run without a checkpoint."""
        return self.folder.holds_run() and self.status != "finished" and not self.folder.last_checkpoint.is_file()


def run_missing(runs: list[CellRun], measurement: Measurement, extra: list[str]) -> list[str]:
    """Run the missing commands one after the other; return the names of the runs that failed.

    Raises:
        InputError: A command rejected its input, which the others would as well.
        Stopped: A command was stopped by a signal.
    """
    failed = []
    for number, run in enumerate(runs, 1):
        prefix = f"[{number}/{len(runs)}] {run.name}"
        with _try_lock(run) as locked:
            if not locked or run.status == "running":
                host = run.folder.metadata.get("host", socket.gethostname()).partition(" ")[0]
                print(f"{prefix}: skipped: already running (on {host})", flush=True)
                continue
            commands = run.missing_commands(measurement, extra)
            if run.must_restart():
                shutil.rmtree(run.path)
            for command in commands:
                print(f"{prefix}: {shlex.join([*TRAINER, *command])}", flush=True)
                status = run_trainer(command)
                if status in STATUS.values():
                    raise Stopped
                if status == 2:
                    raise InputError(f"the cell {run.name} was rejected; see the error above")
                if status or run.status != "finished":  # an option such as max_time may stop a training with status 0
                    failed.append(run.name)
                    break
    return failed


def command_line(run: CellRun, measurement: Measurement, extra: list[str]) -> str:
    """Return the missing commands of a run as one shell line; empty if there are none."""
    parts = [shlex.join([*TRAINER, *command]) for command in run.missing_commands(measurement, extra)]
    if parts and run.must_restart():
        parts.insert(0, shlex.join(["rm", "-r", str(run.path)]))
    return " && ".join(parts)


@contextmanager
def _try_lock(run: CellRun) -> Iterator[bool]:
    """Lock a run, since several of these commands may share one table; yield whether the lock was free."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with run.path.with_name(f".{run.path.name}.lock").open("w") as file:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks: of two at once, ``fit`` refuses the second
            pass
        yield free


def find_run(runs: Iterable[Path], words: Iterable[str]) -> Path | None:
    """Return the run that a ``fit`` with these options started, whatever its directory is called; None if there is none.

    A finished run is preferred to others, such as those of a sweep that failed and were repeated.

    Raises:
        InputError: Several finished runs were started with these options.
    """
    wanted = _training_options(words)
    found = [RunDirectory(path) for path in runs if _started_with(path) == wanted]
    finished = [run.path for run in found if run.status == "finished"]
    if len(finished) > 1:
        raise InputError(
            f"{' and '.join(map(str, finished))} have the same options; remove all but one, or move them elsewhere"
        )
    return next(iter([*finished, *(run.path for run in found)]), None)


def _started_with(run: Path) -> set[str] | None:
    """Return the training options of the command that started a run; None if there is no such command."""
    commands = RunDirectory(run).commands()
    return _training_options(commands[0][len(TRAINER) + 1 :]) if commands else None


def _training_options(words: Iterable[str]) -> set[str]:
    """Return the options that define what is trained as ``--name=value``, without those of :data:`EXECUTION_OPTIONS`."""
    options: list[str] = []
    for word in words:
        if word.startswith("--") or not options or "=" in options[-1]:
            options.append(word)
        else:
            options[-1] += f"={word}"
    return {option for option in options if not option.startswith(EXECUTION_OPTIONS)}
