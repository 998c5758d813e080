"""A JSON line an evaluation, the FID curve as a picture, and the last word of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from renderers.files import write_atomically

METRICS = "metrics.jsonl"


class EvaluationLog(pl.Callback):
    """Appends to ``metrics.jsonl`` (keys such as ``kimg``, ``fid``) at each evaluation and redraws ``fid.png``."""

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
        draw_curve(folder / "fid.png", lines)

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        lines = read_metrics(Path(trainer.default_root_dir))
        if trainer.fast_dev_run or not lines:
            return
        first, last = lines[0], lines[-1]
        print(
            f"FID {first['fid']:.1f} at {first['kimg']:g} kimg, {last['fid']:.1f} at {last['kimg']:g} kimg "
            f"({last['note']})"
        )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; none if there is no such file."""
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def draw_curve(path: Path, lines: list[dict[str, Any]]) -> None:
    """FID over thousand pictures seen."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["kimg"] for line in lines], [line["fid"] for line in lines], marker="o", markersize=3)
    axes.set(xlabel="kimg (thousand real pictures seen)", ylabel="FID", ylim=(0, None), title=lines[-1]["note"])
    axes.title.set_fontsize(8)
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
