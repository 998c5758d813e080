"""``metrics.jsonl``: one JSON line per evaluation; and curves as images."""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.evaluations import is_fit_evaluation, kimg_and_step
from callbacks.loggers.guarded import guarded_loggers
from callbacks.monitor import format_metric, monitor_of
from metrics.manifolds import MANIFOLD_METRICS
from metrics.shape_comparison import SHAPE_METRICS
from utils.errors import InputError, printable, system_reason
from utils.files import write_atomically
from utils.legacy_names import update_note

METRICS = "metrics.jsonl"
KIMG = "kimg (thousand real images seen)"
DISTANCES = ("sfid", "fid", "kid")
IMAGE_METRICS = (*DISTANCES, "kid_std", *MANIFOLD_METRICS)  # these depend on the extractor; metrics of shapes do not
_IMAGES = re.compile(r"extractor .*, [\d,]+ generated against [\d,]+ real images")
_SHAPES = re.compile(r", [\d,]+ shapes against as many held-out ones")


class EvaluationLog(pl.Callback):
    """Appends each evaluation to ``metrics.jsonl`` (keys such as ``kimg``, ``fid``) and updates the plots.

    ``sfid.png``, ``fid.png`` and ``kid.png`` show the distances between images, as far as they are measured;
    ``image_metrics.png`` precision, recall, density and coverage; ``shape_metrics.png`` the metrics of shapes.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._seconds_before = 0.0  # of the run's earlier parts

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._start = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds_before + time.monotonic() - self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds_before = state["seconds"]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not is_fit_evaluation(trainer):
            return
        folder = Path(trainer.default_root_dir)
        line = {"kimg": pl_module.kimg, "step": pl_module.step, **pl_module.evaluation}
        if "occupancy" in line and (reference := getattr(trainer.datamodule, "reference_occupancy", None)) is not None:
            line["reference_occupancy"] = reference
        line |= {"note": pl_module.evaluation_note, "seconds": round(self.state_dict()["seconds"], 1)}
        # A resumed run may repeat an evaluation that was interrupted; the later line replaces the earlier one.
        lines = [old for old in read_metrics(folder) if old["step"] < pl_module.step] + [line]
        _write_metrics(folder, lines)
        for name in DISTANCES:
            if name in line:
                plot_curve(folder / f"{name}.png", lines, name)
        for file, names in (("image_metrics.png", MANIFOLD_METRICS), ("shape_metrics.png", SHAPE_METRICS)):
            if any(name in line for name in names):
                plot_metrics(folder / file, lines, names)

        if trainer.sanity_checking:  # Lightning does not pass the first evaluation to the loggers
            for logger in guarded_loggers(trainer):
                logger.log_metrics({**pl_module.evaluation, **kimg_and_step(pl_module)}, pl_module.step)

    @rank_zero_only
    def on_fit_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        lines = read_metrics(Path(trainer.default_root_dir))
        if trainer.fast_dev_run or not lines:
            return
        lines = comparable_lines(lines)
        monitor = monitor_of(trainer)
        name, best = monitor.name(lines[-1]), monitor.best(lines)
        values = [f"{format_metric(name, line)} at {line['kimg']:g} kimg" for line in (lines[0], lines[-1])]
        if best is not None:
            values.append(
                f"best{monitor.exclusion(lines[0], best)} {format_metric(name, best)} at {best['kimg']:g} kimg"
            )
        print(f"{name.upper()} {', '.join(values)} ({lines[-1]['note']})")


class ValidationRecord(pl.Callback):
    """Appends the result of ``validate`` to ``metrics.jsonl`` in its output directory, with the keys of a run.

    So a run can be measured with several extractors. The same measurement of the same step, with the same options,
    replaces the earlier one.

    Attributes:
        options: the options that differ from the run's, which the command line sets. Each line holds them.
    """

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    @rank_zero_only
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run or trainer.state.fn != "validate":
            return
        folder = Path(trainer.default_root_dir)
        line = {
            "kimg": pl_module.kimg,
            "step": pl_module.step,
            **pl_module.evaluation,
            "note": pl_module.evaluation_note,
            "options": self.options,
        }
        others = [old for old in read_metrics(folder) if not _same_measurement(old, line)]
        _write_metrics(folder, [*others, line])
        options = "".join(f", {key} {value}" for key, value in self.options.items())
        print(f"{line['note']}{options}; written to {folder / METRICS}")


def _same_measurement(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first.get(key, {}) == second.get(key, {}) for key in ("step", "note", "options"))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's ``metrics.jsonl`` without metrics that are null; an empty list if it does not exist.

    Raises:
        InputError: naming the invalid line.
    """
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.exists() else []
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}; remove it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({system_reason(error)}); check its permissions") from error
    return [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        line = {key: value for key, value in line.items() if value is not None}
        values = [value for key, value in line.items() if key not in ("note", "options")]
        if all(type(value) in (int, float) for value in (*values, line["step"], line["kimg"])):
            for value in values:
                float(value)  # an integer may be too large for the plots
            if isinstance(line["note"], str) and isinstance(line.get("options", {}), dict):
                return line | {"note": update_note(line["note"])}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
        pass
    raise InputError(f"{path}, line {number}: not an evaluation with step, kimg and note; remove the line")


def _write_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(folder / METRICS, lambda path: path.write_text(text, encoding="utf-8"))


def comparable_lines(lines: list[dict[str, Any]], name: str | None = None) -> list[dict[str, Any]]:
    """Return the lines that were measured like the last one: by the same extractor, on as many images and shapes.

    A run can be resumed with another extractor. The other parts of a note are not compared, because they change while a
    MeshGAN grows.

    Args:
        lines: lines of a ``metrics.jsonl``.
        name: the metric to compare. Metrics of shapes do not depend on the extractor and the images, nor those of images on
            the shapes. If it depends on neither, all lines are comparable.
    """
    return [line for line in lines if _measurement(line, name) == _measurement(lines[-1], name)]


def _measurement(line: dict[str, Any], name: str | None) -> tuple[str, str]:
    """Return the parts of a line's note that state the extractor and the images (or the whole note), and the shapes."""
    note = line.get("note", "")
    images, shapes = _IMAGES.match(note), _SHAPES.search(note)
    return (
        (images[0] if images else note) if name is None or name in IMAGE_METRICS else "",
        shapes[0] if shapes and (name is None or name in SHAPE_METRICS) else "",
    )


def without_shapes(note: str) -> str:
    """Return the note of an evaluation without its number of shapes, which does not matter to metrics of images."""
    return _SHAPES.sub("", note)


def plot_curve(path: Path, lines: list[dict[str, Any]], name: str) -> None:
    """Plot a metric of images over kimg from comparable lines, KID with its deviation over subsets."""
    from matplotlib.figure import Figure  # not pyplot, which needs a display and has global state

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    lines = [line for line in lines if name in line]  # a resumed run may measure another metric than before
    lines = comparable_lines(lines, name)
    kimg, values = [line["kimg"] for line in lines], [line[name] for line in lines]
    axes.plot(kimg, values, marker="o", markersize=3)
    if name == "kid":
        lower, upper = ([line["kid"] + sign * line["kid_std"] for line in lines] for sign in (-1, 1))
        axes.fill_between(kimg, lower, upper, alpha=0.2)
    bottom = min([0.0, *values]) if name == "kid" else 0  # KID is unbiased and may be negative
    axes.set(xlabel=KIMG, ylabel=name.upper(), ylim=(bottom, None))
    axes.set_title(textwrap.fill(printable(lines[-1].get("note", "")), 95), fontsize=8, parse_math=False)
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))


def plot_metrics(path: Path, lines: list[dict[str, Any]], names: Iterable[str]) -> None:
    """Plot those of the metrics that the last line has over kimg, each on its own axes, from comparable lines."""
    from matplotlib.figure import Figure

    names = [name for name in names if name in lines[-1]]
    figure = Figure(figsize=(3 * len(names), 2.6))
    figure.subplots_adjust(left=0.03, right=0.99, bottom=0.2, wspace=0.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        measured = [line for line in comparable_lines(lines, name) if name in line]
        axes.plot([line["kimg"] for line in measured], [line[name] for line in measured], marker="o", markersize=3)
        axes.set(ylim=(0, None if name in ("density", "mmd") else 1.02))
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
    figure.supxlabel(KIMG, fontsize=10)
    if any(name in IMAGE_METRICS for name in names):
        figure.subplots_adjust(top=0.78)
        note = textwrap.fill(printable(lines[-1].get("note", "")), 45 * len(names))
        figure.suptitle(note, fontsize=8, parse_math=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
