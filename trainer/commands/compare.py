"""``compare``: runs side by side on one page, and what is to be known before one is called better."""

from __future__ import annotations

import base64
import html
import io
import json
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from callbacks.html_pages import image, table, when, write_page
from callbacks.metrics_log import main_metric, read_metrics
from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError

COLUMNS = {
    "run": "run",
    "status": "status",
    "seed": "seed",
    "kimg": "kimg",
    "metric": "metric",
    "final": "final",
    "best": "best",
    "best_kimg": "best at kimg",
    "minutes": "minutes",
    "measured": "measured by",
}
CURVES = {
    "fid": "FID",
    "kid": "KID",
    "occupancy": "Occupancy",
    "pairwise_iou": "Mean IoU of pairs of samples",
    "depth_correlation": "Depth correlation",
}
SHEETS = {"samples": "Samples", "normals": "Normal maps"}


@dataclass(frozen=True)
class Compared:
    """One run as its folder tells of it."""

    folder: RunDirectory
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.yaml`` with dotted keys; arguments stand without ``init_args``."""
        try:
            values = yaml.safe_load(self.folder.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{self.folder.config} cannot be read; is {self.folder.path} a run?") from error
        return dict(_flat("", values))

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Its evaluations."""
        try:
            return read_metrics(self.folder.path)
        except ValueError as error:
            raise InputError(f"{self.folder.path / 'metrics.jsonl'} is damaged ({error}); mend or remove it") from error

    @property
    def measured(self) -> str:
        """How its figures were measured, in words; figures of other words cannot be compared."""
        return self.lines[-1].get("note", "") if self.lines else ""

    def row(self) -> dict[str, Any]:
        """Its line of the table."""
        row = dict.fromkeys(COLUMNS) | {
            "run": self.name,
            "status": self.folder.status,
            "seed": self.config.get("seed_everything"),
        }
        if not self.lines:
            return row
        last, name = self.lines[-1], main_metric(self.lines[-1])
        best = min((line for line in self.lines if name in line), key=lambda line: line[name], default=last)
        return row | {
            "kimg": last["kimg"],
            "metric": name.upper(),
            "final": last.get(name),
            "best": best.get(name),
            "best_kimg": best["kimg"],
            "minutes": last["seconds"] / 60 if "seconds" in last else None,
            "measured": self.measured,
        }

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """kimg and values of one metric."""
        lines = [line for line in self.lines if line.get(metric) is not None]
        return [line["kimg"] for line in lines], [line[metric] for line in lines]


def main(argv: list[str]) -> int:
    """Print the table and write the page; returns the exit status.

    Raises:
        InputError: a folder that is no run.
    """
    options = parse(arguments.compare(), argv)
    if options is None:
        return 0
    runs = [_open(path) for path in dict.fromkeys(options.runs)]
    rows, differences = [run.row() for run in runs], config_differences(runs)
    warning = _incomparable(runs)
    _write_page(options.output, runs, rows, differences, warning)
    if options.json:
        print(json.dumps({"runs": rows, "differences": differences, "warning": warning}))
        return 0
    print(_as_text(rows))
    if warning:
        print(warning)
    print(f"{len(differences)} config values differ; look at {options.output}")
    return 0


def config_differences(runs: list[Compared]) -> dict[str, list[Any]]:
    """The values, one a run, of each dotted key in which the runs' configs differ; None where a run has no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    found = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _open(path: Path) -> Compared:
    folder = RunDirectory(path)
    if not folder.config.is_file():
        raise InputError(f"{path} is no run: it has no config.yaml; name folders that fit made")
    return Compared(folder, str(path))


def _incomparable(runs: list[Compared]) -> str:
    """A sentence where figures were not measured alike."""
    notes = dict.fromkeys(run.measured for run in runs if run.lines)
    if len(notes) < 2:
        return ""
    return f"Measured differently, so these figures cannot be compared: {'; '.join(notes)}."


def _flat(prefix: str, values: Any) -> list[tuple[str, Any]]:
    if not isinstance(values, dict) or not values:
        return [(prefix, values)]
    pairs = []
    for key, value in values.items():
        inner = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        pairs += _flat(inner, value)
    return pairs


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_text(rows: list[dict[str, Any]]) -> str:
    keys = [key for key in COLUMNS if key != "measured"]
    cells = [[COLUMNS[key] for key in keys], *[[_shown(row[key]) for key in keys] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _write_page(
    path: Path, runs: list[Compared], rows: list[dict[str, Any]], differences: dict[str, list[Any]], warning: str
) -> None:
    parts = [f"<h1>unrender: {len(runs)} runs</h1>"]
    parts += [f"<p><b>{html.escape(warning)}</b></p>"] if warning else []
    parts.append(table(list(COLUMNS.values()), [[_shown(row[key]) for key in COLUMNS] for row in rows]))
    for metric in CURVES:
        parts += [_curves(metric, measured, runs) for measured in dict.fromkeys(r.measured for r in runs if r.lines)]
    parts.append("<h2>Where their configs differ</h2>")
    cells = [[key, *map(_shown, values)] for key, values in differences.items()]
    parts.append(table(["value", *(run.name for run in runs)], cells) if cells else "<p>Nowhere.</p>")
    for kind, heading in SHEETS.items():
        found = [(run, sorted((run.folder.path / kind).glob("*.png"))) for run in runs]
        figures = [
            f"<figure>{image(sheets[-1])}<figcaption>{html.escape(run.name)}, {when(sheets[-1])}</figcaption></figure>"
            for run, sheets in found
            if sheets
        ]
        parts += [f"<h2>{heading}</h2><div class=row>{''.join(figures)}</div>"] if figures else []
    write_page(path, f"unrender: {len(runs)} runs", parts)


def _curves(metric: str, measured: str, runs: list[Compared]) -> str:
    """One metric over kimg, of the runs that measured it in one way."""
    curves = {run.name: run.curve(metric) for run in runs if run.lines and run.measured == measured}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if not curves:
        return ""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, (kimg, values) in curves.items():
        axes.plot(kimg, values, marker="o", markersize=3, label=name)
    title = CURVES[metric]
    axes.set(xlabel="kimg (thousand real images seen)", ylabel=title)
    axes.set_title(textwrap.fill(measured, 120), fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    url = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    return f"<h2>{title}</h2><img class=curve alt='{metric} over kimg' src='{url}'>"
