"""A JSON line an evaluation, the curve of FID or KID as an image, and the last word of a run."""

from __future__ import annotations

import json
import textwrap
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks.loggers.guarded import clock_of, guarded_loggers
from renderers import InputError
from utils.files import write_atomically

METRICS = "metrics.jsonl"


class EvaluationLog(pl.Callback):
    """Appends to ``metrics.jsonl`` (keys such as ``kimg``, ``fid``) at each evaluation and redraws ``fid.png``.

    Where the images are too few for FID, ``kid`` stands in its place, and ``kid.png``.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = 0.0

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._before + time.monotonic() - self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._before = state["seconds"]

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run and trainer.state.fn == "fit":
            self._write(trainer, module)

    @rank_zero_only
    def _write(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        line = {"kimg": module.kimg, "step": module.step, **module.evaluation}
        if "occupancy" in line and (reference := getattr(trainer.datamodule, "reference_occupancy", None)) is not None:
            line["reference_occupancy"] = reference
        line |= {"note": module.evaluation_note, "seconds": round(self.state_dict()["seconds"], 1)}
        # A resumed run may evaluate again where the one before was cut off: the later line counts.
        lines = [old for old in read_metrics(folder) if old["step"] < module.step] + [line]
        text = "".join(json.dumps(one) + "\n" for one in lines)
        write_atomically(folder / METRICS, lambda path: path.write_text(text) and None)
        draw_curve(folder / f"{main_metric(line)}.png", lines)

        if trainer.sanity_checking:  # Lightning keeps the first evaluation from the loggers
            for board in guarded_loggers(trainer):
                board.log_metrics({**module.evaluation, **clock_of(module)}, module.step)

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        lines = read_metrics(Path(trainer.default_root_dir))
        if trainer.fast_dev_run or not lines:
            return
        name = main_metric(lines[-1])
        figures = [f"{_shown(name, line)} at {line['kimg']:g} kimg" for line in (lines[0], lines[-1])]
        print(f"{name.upper()} {', '.join(figures)} ({lines[-1]['note']})")


class ValidationRecord(pl.Callback):
    """Appends a line to ``metrics.jsonl`` in the folder that ``validate`` writes to, with the keys of the run's own.

    So one run may be measured by several extractors. The same measurement of the same step replaces the earlier.
    """

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.fast_dev_run or trainer.state.fn != "validate":
            return
        folder = Path(trainer.default_root_dir)
        line = {"kimg": module.kimg, "step": module.step, **module.evaluation, "note": module.evaluation_note}
        before = [old for old in read_metrics(folder) if (old["step"], old["note"]) != (line["step"], line["note"])]
        text = "".join(json.dumps(one) + "\n" for one in [*before, line])
        write_atomically(folder / METRICS, lambda path: path.write_text(text) and None)
        print(f"{line['note']}; kept in {folder / METRICS}")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; none if there is no such file.

    Raises:
        InputError: naming the line that is none.
    """
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; remove it") from error
    return [_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        if all(type(line[key]) in (int, float) for key in ("step", "kimg")) and isinstance(line["note"], str):
            return line
    except (ValueError, RecursionError, TypeError, KeyError):
        pass
    raise InputError(f"{path}, line {number}: no evaluation with step, kimg and note; remove the line")


def main_metric(line: dict[str, Any]) -> str:
    """What an evaluation is judged by: ``fid``, or ``kid`` where there is no FID."""
    return "fid" if "fid" in line else "kid"


def _shown(name: str, line: dict[str, Any]) -> str:
    """FID to a tenth; KID, which has no scale of its own, to three digits beside the scatter of its subsets."""
    value = line.get(name, float("nan"))
    return f"{value:.1f}" if name == "fid" else f"{value:.3g} ± {line.get('kid_std', float('nan')):.2g}"


def draw_curve(path: Path, lines: list[dict[str, Any]]) -> None:
    """FID, or KID with the scatter of its subsets, over thousand images seen."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    name = main_metric(lines[-1])
    lines = [line for line in lines if name in line]  # a resume may have changed what is measured
    kimg, values = [line["kimg"] for line in lines], [line[name] for line in lines]
    axes.plot(kimg, values, marker="o", markersize=3)
    if name == "kid":
        around = [[line["kid"] + sign * line["kid_std"] for line in lines] for sign in (-1, 1)]
        axes.fill_between(kimg, *around, alpha=0.2)
    # KID, unbiased, may fall below 0
    bottom = min([0.0, *values]) if name == "kid" else 0
    axes.set(xlabel="kimg (thousand real images seen)", ylabel=name.upper(), ylim=(bottom, None))
    axes.set_title(textwrap.fill(lines[-1]["note"], 95), fontsize=8)
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
