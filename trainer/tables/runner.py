"""The runs behind a table's cells: what has become of each, what is still to do, and doing it."""

import csv
import fcntl
import math
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.metrics_log import read_metrics
from trainer.runs.run_directory import RunDirectory
from trainer.tables.spec import Cell
from utils.errors import InputError
from utils.signals import STATUS, Stopped

TRAINER = ("python", "-m", "trainer")
TRAINS_WITH = "renders_small"  # the extractor of a training's own evaluations: cheap, and always there
# Words that say how a run is carried out, not what is run.
HOW = (
    "--run_dir",
    "--ckpt_path",
    "--checkpoint_minutes",
    "--trainer.",
    "--data.num_workers",
    "--data.init_args.num_workers",
)


@dataclass(frozen=True)
class Measure:
    """How figures are measured.

    Args:
        extractor: by name.
        weights: a file of weights for it.
        label: as figures state it; None takes any weights of that name.
    """

    extractor: str
    weights: str | None = None
    label: str | None = None

    def fits(self, note: str) -> bool:
        """Whether a figure with this note was measured so."""
        label = re.escape(self.label) if self.label else rf"{self.extractor}( \([0-9a-f]+\))?"
        return re.match(rf"extractor {label},", note) is not None


@dataclass(frozen=True)
class Figure:
    """What a finished run reached: FID, and the extractor and counts that it was measured with."""

    fid: float
    note: str


@dataclass(frozen=True)
class CellRun:
    """One cell with one seed.

    Args:
        cell: of the table.
        seed: of the training.
        path: the run's folder.
        words: of its ``fit`` command, all but the folder.
    """

    cell: Cell
    seed: int
    path: Path
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.cell.name}, seed {self.seed}" if self.seed else self.cell.name

    @property
    def folder(self) -> RunDirectory:
        return RunDirectory(self.path)

    @property
    def status(self) -> str:
        """``not run``, ``running``, ``finished``, or how it ended before that."""
        return self.folder.status

    @property
    def settings(self) -> dict[str, Any]:
        """``config.yaml``: what was run."""
        return self.folder.settings

    def figure(self, measure: Measure) -> Figure | None:
        """The figure at the end of a finished run: of its own last evaluation, or of the last ``validate`` after that."""
        if self.status != "finished":
            return None
        own = _metrics(self.path)[-1:]
        step = own[0].get("step", 0) if own else 0
        later = [line for line in _metrics(self.path / "validate") if line.get("step", 0) >= step]
        for line in [*own, *reversed(later)]:
            if measure.fits(line.get("note", "")) and math.isfinite(line.get("fid", math.nan)):
                return Figure(line["fid"], line["note"])
        return None

    def progress(self) -> str:
        """How far an unfinished run is, such as ``12 of 60 kimg``; empty where nothing is known."""
        total = self.settings.get("data", {}).get("init_args", {}).get("total_kimg")
        if total is None:
            return ""
        return f"{self.kimg:.3g} of {total:g} kimg"

    @property
    def kimg(self) -> float:
        """Thousand images seen, as far as is logged."""
        seen = [line.get("kimg", 0) for line in _metrics(self.path)]
        try:
            with (self.path / "metrics.csv").open(encoding="utf-8", newline="") as file:
                seen += [float(row["kimg"]) for row in csv.DictReader(file) if row.get("kimg")]
        except (OSError, ValueError, csv.Error):
            pass
        return max(seen, default=0.0)

    def check(self) -> None:
        """Refuse a folder that holds a run of another command.

        Raises:
            InputError: naming what differs.
        """
        command = self.path / "command.txt"
        if not command.is_file():
            return
        ran = shlex.split(command.read_text(encoding="utf-8").partition("\n")[0])
        there, here = _what(ran[len(TRAINER) + 1 :]), _what(self.words)
        if there != here:
            differs = (
                f"has {' '.join(sorted(there - here)) or 'nothing'} for {' '.join(sorted(here - there)) or 'nothing'}"
            )
            raise InputError(
                f"{self.path} holds a run of another command: it {differs}; give the same options, remove it, or name "
                "another folder by --runs"
            )

    def todo(self, measure: Measure, extra: Iterable[str] = ()) -> list[list[str]]:
        """The commands that are still to be run, one after the other, for a figure measured so; none if it is there."""
        where = ["--run_dir", str(self.path)]
        commands = []
        if self.status != "finished":
            again = self.folder.last_checkpoint.is_file()
            commands.append(
                ["fit", *where, *extra] if again else ["fit", *self.words, *where],
            )
        own_figure = measure.extractor == TRAINS_WITH and measure.weights is None
        if self.figure(measure) is None and not (commands and own_figure):
            commands.append(["validate", *where, f"--model.extractor={measure.extractor}"])
            commands[-1] += [f"--model.extractor_weights={measure.weights}"] if measure.weights else []
        return commands

    def begun_in_vain(self) -> bool:
        """Whether the folder holds a run that left nothing to continue."""
        return self.folder.holds_run() and self.status != "finished" and not self.folder.last_checkpoint.is_file()


def run_missing(runs: list[CellRun], measure: Measure, extra: list[str]) -> list[str]:
    """Run what is missing, one command after the other; returns the names of the runs that failed.

    Raises:
        InputError: a command refused its input: the others would as well.
        Stopped: a signal stopped one.
    """
    failed = []
    for number, run in enumerate(runs, 1):
        head = f"[{number}/{len(runs)}] {run.name}"
        with _claimed(run) as free:
            if not free:
                host = run.folder.run_metadata.get("host", socket.gethostname()).partition(" ")[0]
                print(f"{head}: left alone, it runs already (on {host})", flush=True)
                continue
            commands = run.todo(measure, extra)
            if run.begun_in_vain():
                shutil.rmtree(run.path)
            for command in commands:
                print(f"{head}: {shlex.join([*TRAINER, *command])}", flush=True)
                status = _call(command)
                if status in STATUS.values():
                    raise Stopped
                if status == 2:
                    raise InputError(f"the cell {run.name} was refused; its message stands above")
                if status:
                    failed.append(run.name)
                    break
    return failed


def command_line(run: CellRun, measure: Measure, extra: list[str]) -> str:
    """All that is still to be done for a run, as one line for a shell; empty if nothing is."""
    parts = [shlex.join([*TRAINER, *command]) for command in run.todo(measure, extra)]
    if parts and run.begun_in_vain():
        parts.insert(0, shlex.join(["rm", "-r", str(run.path)]))
    return " && ".join(parts)


def _call(command: list[str]) -> int:
    """One command in a process of its own, which gives back all memory; at a signal the child saves before both leave."""
    with subprocess.Popen([sys.executable, *TRAINER[1:], *command]) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise


@contextmanager
def _claimed(run: CellRun) -> Iterator[bool]:
    """Whether the run is ours to work on; several of these commands may share one table."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    lock = run.path.with_name(f".{run.path.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield run.status != "running"


def _metrics(folder: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(folder)
    except ValueError as error:
        raise InputError(f"{folder / 'metrics.jsonl'} is damaged: {error}") from error


def _what(words: Iterable[str]) -> set[str]:
    """The words that say what is run."""
    kept, words = set(), iter(words)
    for word in words:
        if word.startswith(HOW):
            if "=" not in word:
                next(words, None)
            continue
        kept.add(word)
    return kept
