"""``compare``: compare runs in a table and on an HTML page with curves, samples and config differences."""

from __future__ import annotations

import io
import json
import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from callbacks.html_pages import grids, write_page
from callbacks.metrics_log import comparable_lines, read_metrics
from callbacks.monitor import Monitor
from trainer.cli import arguments
from trainer.cli.config_yaml import load_yaml
from trainer.cli.trust import check_links
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError, printable
from utils.files import check_replaceable

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
    "sfid": "Spatial FID",
    "fid": "FID",
    "kid": "KID",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "image_coverage": "Coverage of real images",
    "coverage": "Coverage of held-out shapes",
    "mmd": "Minimum matching distance to held-out shapes",
    "one_nn_accuracy": "1-NN accuracy against held-out shapes",
    "largest_piece": "Largest connected piece",
    "nearest_iou": "IoU with the nearest training shape",
    "occupancy": "Occupancy",
    "pairwise_iou": "Mean pairwise IoU of samples",
    "depth_correlation": "Depth correlation",
}
MAX_SETTINGS = 4  # columns of config values in the printed table
GRIDS = {"samples": "Samples", "normals": "Normal maps"}
TEMPLATE = """\
{% extends "page" %}
{% from "macros" import image, table %}
{% block body %}
{% if warning %}<p><b>{{ warning }}</b></p>{% endif %}
{{ table(heads, rows) }}
{% for title, metric, png in curves %}
<h2>{{ title }}</h2>
<img class="curve" alt="{{ metric }} over kimg" src="{{ png | data_url("image/png") }}">
{% endfor %}
<h2>Config differences</h2>
{% if differences %}{{ table(["value"] + names, differences) }}{% else %}<p>None.</p>{% endif %}
{% for heading, images in grids %}
<h2>{{ heading }}</h2>
<div class="row">
{% for name, file in images -%}
<figure>{{ image(file) }}<figcaption>{{ name }}, {{ file | kimg }}</figcaption></figure>
{% endfor -%}
</div>
{% endfor %}
{% endblock %}
"""


@dataclass(frozen=True)
class ComparedRun:
    """One run, read from its directory."""

    folder: RunDirectory
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.yaml`` flattened to dotted keys, without ``init_args``."""
        return dict(_flatten("", load_yaml(self.folder.config, yaml.SafeLoader)))

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return read_metrics(self.folder.path)

    @property
    def measurement(self) -> str:
        """Extractor and image counts of the metrics. Only metrics with equal descriptions are comparable."""
        return self.evaluations[-1].get("note", "") if self.evaluations else ""

    def row(self) -> dict[str, Any]:
        """The run's row of the table."""
        row = dict.fromkeys(COLUMNS) | {
            "run": self.name,
            "status": self.folder.status,
            "seed": self.config.get("seed_everything"),
        }
        if not self.evaluations:
            return row
        last, monitor = self.evaluations[-1], self._monitor()
        name, best = monitor.name(last), monitor.best(self.evaluations) or last
        return row | {
            "kimg": last["kimg"],
            "metric": name.upper(),
            "final": last.get(name),
            "best": best.get(name),
            "best_kimg": best["kimg"],
            "minutes": last["seconds"] / 60 if "seconds" in last else None,
            "measured": self.measurement,
        }

    def _monitor(self) -> Monitor:
        metric, mode = self.config.get("monitor"), self.config.get("mode")
        if not (isinstance(metric, str | None) and metric not in ("note", "options") and mode in (None, "min", "max")):
            raise InputError(f"{self.folder.config}: monitor must be the name of a metric, and mode min or max")
        return Monitor(metric, mode)

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """Return kimg and values of one metric, as far as they were measured as :attr:`measurement` says."""
        lines = [line for line in comparable_lines(self.evaluations, metric) if metric in line]
        return [line["kimg"] for line in lines], [line[metric] for line in lines]


def main(argv: list[str]) -> int:
    """Print the table and write the page; return the exit status.

    Raises:
        InputError: A path is not a run directory, or a run's files cannot be read.
    """
    options = arguments.compare().parse_args(argv)
    check_replaceable(options.output, _is_page, "a page of compare", "--output")
    runs = [_open(path, options.trust) for path in dict.fromkeys(options.runs)]
    rows, differences = [run.row() for run in runs], config_differences(runs)
    warning = _incomparable_warning(runs)
    _write_page(options.output, runs, rows, differences, warning)
    if options.json:
        print(json.dumps({"runs": rows, "differences": differences, "warning": warning}, default=str))
        return 0
    print(_format_table(rows, _settings(differences)))
    if warning:
        print(printable(warning))
    print(f"{len(differences)} config values differ; see {options.output}")
    return 0


def config_differences(runs: list[ComparedRun]) -> dict[str, list[Any]]:
    """Return the config keys whose values differ, each with one value per run; None if a run does not have the key."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values_by_key = {key: [run.config.get(key) for run in runs] for key in keys}
    return {key: values for key, values in values_by_key.items() if any(value != values[0] for value in values)}


def _settings(differences: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the differences of model and data, without seeds, if they are few enough for columns, as in a sweep."""
    settings = {
        key: values
        for key, values in differences.items()
        if key.startswith(("model.", "data.")) and not key.endswith(".seed")
    }
    return settings if len(settings) <= MAX_SETTINGS else {}


def _open(path: Path, trust: bool) -> ComparedRun:
    folder = RunDirectory(path)
    if not folder.config.is_file():
        raise InputError(f"{path} is not a run directory: it has no config.yaml; pass directories created by fit")
    check_links(path, trust)
    return ComparedRun(folder, str(path))


def _incomparable_warning(runs: list[ComparedRun]) -> str:
    """Return a warning if the runs' metrics were measured differently, else an empty string."""
    notes = dict.fromkeys(run.measurement for run in runs if run.evaluations)
    if len(notes) < 2:
        return ""
    return f"These metrics were measured differently and cannot be compared: {'; '.join(notes)}."


def _flatten(prefix: str, values: Any) -> list[tuple[str, Any]]:
    if not isinstance(values, dict) or not values:
        return [(prefix, values)]
    pairs = []
    for key, value in values.items():
        inner = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        pairs += _flatten(inner, value)
    return pairs


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _format_table(rows: list[dict[str, Any]], settings: dict[str, list[Any]]) -> str:
    keys = [key for key in COLUMNS if key != "measured"]
    cells = [[*(COLUMNS[key] for key in keys), *settings]]
    for i, row in enumerate(rows):
        values = (*(row[key] for key in keys), *(x[i] for x in settings.values()))
        cells.append([printable(_format_value(value)) for value in values])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _write_page(
    path: Path, runs: list[ComparedRun], rows: list[dict[str, Any]], differences: dict[str, list[Any]], warning: str
) -> None:
    notes = dict.fromkeys(run.measurement for run in runs if run.evaluations)
    curves = [(metric, _plot(metric, note, runs)) for metric in CURVES for note in notes]
    last_grids = {
        heading: [(run.name, files[-1]) for run in runs if (files := grids(run.folder.path / kind))]
        for kind, heading in GRIDS.items()
    }
    write_page(
        path,
        TEMPLATE,
        title=f"unrender: {len(runs)} runs",
        warning=warning,
        heads=list(COLUMNS.values()),
        rows=[[_format_value(row[key]) for key in COLUMNS] for row in rows],
        curves=[(CURVES[metric], metric, png) for metric, png in curves if png],
        names=[run.name for run in runs],
        differences=[[key, *map(_format_value, values)] for key, values in differences.items()],
        grids=[(heading, images) for heading, images in last_grids.items() if images],
    )


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<title>unrender: \d+ runs</title>", file.read(1000)) is not None


def _plot(metric: str, note: str, runs: list[ComparedRun]) -> bytes:
    """Plot one metric over kimg for the runs with the same measurement, as PNG; empty if none has the metric."""
    curves = {run.name: run.curve(metric) for run in runs if run.evaluations and run.measurement == note}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if not curves:
        return b""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, (kimg, values) in curves.items():
        axes.plot(kimg, values, marker="o", markersize=3, label=printable(name))
    axes.set(xlabel="kimg (thousand real images seen)", ylabel=CURVES[metric])
    axes.set_title(textwrap.fill(printable(note), 120), fontsize=8, parse_math=False)
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # names of runs may contain dollar signs
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
