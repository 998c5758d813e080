"""How image metrics rank the checkpoints of runs, compared with a metric of shapes: Spearman's rank correlation.

    python -m benchmarks judge_runs RUN... [--metrics fid sfid] [--against mmd] [--min_kimg 0] [--json]

Reads ``metrics.jsonl`` of each run directory and correlates each image metric with the shape metric over the evaluations
in which both are finite. The last row ranks the evaluations of all runs together, if all were measured in the same way
(extractor and image counts). For metrics that are better when lower, such as FID and MMD, 1 is the same order.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from benchmarks.output import show
from callbacks.metrics_log import read_metrics
from renderers import InputError

MIN_EVALUATIONS = 3  # of a correlation


def correlation(lines: list[dict[str, Any]], metric: str, against: str) -> float | None:
    """Return Spearman's correlation of two metrics over evaluations; None for fewer than three, or a constant metric."""
    pairs = [(line[metric], line[against]) for line in lines if _finite(line, metric) and _finite(line, against)]
    if len(pairs) < MIN_EVALUATIONS or any(len(set(values)) == 1 for values in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(pairs).statistic)


def rows(runs: dict[str, list[dict[str, Any]]], metrics: list[str], against: str) -> list[dict[str, Any]]:
    """Return one row for each run and one for all evaluations together.

    Args:
        runs: evaluations by run.
        metrics: image metrics.
        against: the metric of shapes.

    Raises:
        InputError: a run has no evaluation with the metric of shapes and one of the image metrics.
    """
    table = []
    together = []
    for run, lines in runs.items():
        measured = [line for line in lines if _finite(line, against) and any(_finite(line, name) for name in metrics)]
        together += measured
        if not measured:
            raise InputError(
                f"{run} has no evaluation with {against} and {' or '.join(metrics)}; pass runs of voxel generators whose "
                "data have shapes"
            )
        table.append(_row(run, measured, metrics, against))
    notes = {line["note"] for lines in runs.values() for line in lines}
    if len(runs) > 1 and len(notes) == 1:
        table.append(_row("all", together, metrics, against))
    return table


def _finite(line: dict[str, Any], metric: str) -> bool:
    """Whether an evaluation has a value of a metric. Shape metrics are NaN while all shapes are empty."""
    return math.isfinite(line.get(metric, math.nan))


def _row(name: str, lines: list[dict[str, Any]], metrics: list[str], against: str) -> dict[str, Any]:
    return {"run": name, "evaluations": len(lines)} | {
        f"{metric} against {against}": correlation(lines, metric, against) for metric in metrics
    }


def main(argv: list[str]) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks judge_runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--metrics", nargs="+", default=["fid", "sfid"], metavar="METRIC", help="default: fid sfid")
    parser.add_argument("--against", default="mmd", metavar="METRIC", help="default: mmd")
    parser.add_argument("--min_kimg", type=float, default=0.0, help="leave earlier evaluations out (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    given = parser.parse_args(argv)
    try:
        lines = {str(run): _evaluations(run, given.min_kimg) for run in given.runs}
        table = rows(lines, given.metrics, given.against)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(table))
    else:
        show(table)
    return 0


def _evaluations(run: Path, min_kimg: float) -> list[dict[str, Any]]:
    lines = read_metrics(run)
    if not lines:
        raise InputError(f"{run} has no metrics.jsonl with evaluations; pass run directories of fit")
    return [line for line in lines if line["kimg"] >= min_kimg]
