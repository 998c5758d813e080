"""The results of a table's runs, the state of unfinished ones, and the caption that says how they were measured."""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.runs.proxy_pretraining import proxy_shapes
from trainer.runs.run_directory import find_run
from trainer.tables.runner import METRICS, CellRun, Measurement, Result
from trainer.tables.spec import Cell, Scale, Table
from utils.errors import InputError, printable

DIGITS = {"mmd": 4}  # 3 for the others
SOURCES = {"ShapeNetShapes": "ShapeNet", "ProceduralShapes": "procedural shapes"}


@dataclass(frozen=True)
class Entry:
    """The content of one cell: FID and spatial FID (means over seeds), or the state of unfinished runs.

    ``others`` has the other metrics that all runs have, formatted.
    """

    text: str
    fid: float | None
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableResults:
    """A table with its results.

    Args:
        table: Its definition.
        cells: The selected cells.
        entries: Their contents by name.
        caption: Title, how our and the paper's results were measured, and notes.
        lines: The rows of the CSV file, one per run.
    """

    table: Table
    cells: list[Cell]
    entries: dict[str, Entry]
    caption: list[str]
    lines: list[dict[str, Any]]

    @property
    def rows(self) -> list[str]:
        """Keys of the rows with a selected cell, in the table's order."""
        return [key for key in self.table.rows if any(cell.row == key for cell in self.cells)]

    @property
    def columns(self) -> list[str]:
        """Keys of the columns with a selected cell, in the table's order."""
        return [key for key in self.table.columns if any(cell.column == key for cell in self.cells)]

    @property
    def best(self) -> set[str]:
        """The cell with our lowest FID in each column with two or more cells, all finished."""
        best = set()
        for column in self.columns:
            names = [cell.name for cell in self.cells if cell.column == column]
            fids = {name: fid for name in names if (fid := self.entries[name].fid) is not None}
            if len(fids) == len(names) > 1:
                best.add(min(fids, key=fids.__getitem__))
        return best

    def at(self, row: str, column: str) -> Cell | None:
        """Return the cell of a row and a column, if it is selected."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def gather(table: Table, scale: Scale, runs: list[CellRun], measurement: Measurement) -> TableResults:
    """Read the results of a table's runs.

    Raises:
        InputError: Runs that were trained or measured differently and cannot be combined in one table.
    """
    cells = list({run.cell.name: run.cell for run in runs}.values())
    results = {run.name: run.result(measurement) for run in runs}
    notes_by_run = {name: result.note for name, result in results.items() if result}
    finished = [run for run in runs if run.name in notes_by_run]
    note = _common(notes_by_run, "measured", table.name)
    settings = {run.name: _settings(run) for run in finished}
    trained = {
        name: ", ".join(parts[key] for key in ("images", "length", "shapes")) for name, parts in settings.items()
    }
    training = _common(trained, "trained", table.name)
    grid = _common({name: parts["grid"] for name, parts in settings.items() if parts["grid"]}, "trained", table.name)
    entries, lines = {}, []
    for cell in cells:
        of_cell = [run for run in runs if run.cell is cell]
        entries[cell.name] = _entry(of_cell, results, measurement)
        lines += [_line(run, results[run.name], measurement) for run in of_cell]
    seeds = sorted({run.seed for run in runs})
    ours = "no cell is finished"
    if finished:
        ours = ", ".join(
            [*filter(None, [grid]), training, f"seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}", note]
        )
    counts = _training_images(table, finished)
    pretraining = _pretraining(table, finished)
    several = "; mean ± standard deviation over the seeds" if len(seeds) > 1 else ""
    spatial = "; FID / spatial FID" if any(" / " in entry.text for entry in entries.values()) else ""
    caption = _caption(table, scale, measurement, cells, f"{ours}{several}{spatial}", [counts, pretraining])
    return TableResults(table, cells, entries, caption, lines)


def _caption(
    table: Table, scale: Scale, measurement: Measurement, cells: list[Cell], ours: str, data: list[str]
) -> list[str]:
    # Each classifier of renders has its own features; only ImageNet's are the same as the paper's.
    comparable = measurement.extractor == table.extractor == "imagenet" and scale.extractor == "renders"
    notes = [part.note for key, part in table.rows.items() if any(cell.row == key for cell in cells)]
    notes += [part.note for key, part in table.columns.items() if any(cell.column == key for cell in cells)]
    paper = f"In parentheses the paper's results: {table.paper}; 64³ voxels, 128² images, ShapeNet."
    if not comparable:
        paper += " Compare the ranking of our results with the paper's, not the values."
    parts = [
        f"{table.title}. Lower is better; bold marks our lowest FID in each complete column.",
        f"Ours, at the end of training ({scale.title}): {ours}.",
        *filter(None, [*data, paper if table.paper else "", table.note, *notes]),
    ]
    return [printable(part) for part in parts]


def _training_images(table: Table, finished: list[CellRun]) -> str:
    """Say how many images of how many models each column's runs were trained on.

    Raises:
        InputError: The runs of a column were trained on different numbers.
    """
    by_column: dict[str, dict[str, str]] = {}
    for run in finished:
        if counts := run.folder.metadata.get("training_data"):
            images, models = (x if isinstance(x, str) else f"{x:,}" for x in (counts["images"], counts["models"]))
            by_column.setdefault(run.cell.column, {})[run.name] = f"{images} of {models} models"
    columns = [
        f"{', '.join(table.columns[column].heads)}: {_common(values, 'trained', table.name)}"
        for column, values in by_column.items()
    ]
    return f"Training images: {'; '.join(columns)}." if columns else ""


def _pretraining(table: Table, finished: list[CellRun]) -> str:
    """Say which shapes the runs' neural renderer was pre-trained on, according to the config of its run.

    Raises:
        InputError: It was pre-trained on one category from different sources.
    """
    by_category: dict[str, dict[str, str]] = {}
    for run in finished:
        checkpoint = run.folder.settings["model"]["init_args"].get("proxy_checkpoint")
        if not checkpoint:
            continue
        if not isinstance(checkpoint, str):
            raise InputError(f"{run.folder.config}: proxy_checkpoint must be a file, not {str(checkpoint)[:50]!r}")
        proxy = find_run(Path(checkpoint))
        shapes = proxy_shapes(proxy) if proxy else None
        category = str(shapes["init_args"].get("category", "")) if shapes else ""
        name = _pretraining_shapes(shapes, category) if shapes else f"unknown shapes ({checkpoint} is missing)"
        by_category.setdefault(category or checkpoint, {})[run.name] = name
    names = dict.fromkeys(_common(values, "pre-trained", table.name) for values in by_category.values())
    return f"The neural renderer is pre-trained on {', '.join(names)}." if names else ""


def _pretraining_shapes(shapes: dict[str, Any], category: str) -> str:
    source = _source(shapes)
    plural = category if category.endswith("s") else f"{category}s"
    return f"procedural {plural}" if source == SOURCES["ProceduralShapes"] else f"{plural} of {source}"


def _source(shapes: dict[str, Any]) -> str:
    """Name the source of shapes in a run's config."""
    path = shapes["init_args"].get("path")
    kind = shapes["class_path"].rpartition(".")[2]
    return SOURCES.get(kind) or (Path(path).name if isinstance(path, str) and path else kind)


def _settings(run: CellRun) -> dict[str, str]:
    """Return the settings of a run that the caption lists.

    Raises:
        InputError: The config is missing, or its data are not images of shapes.
    """
    try:
        config = run.folder.settings
        data = config["data"]["init_args"]
        source = _source(data["shapes"])
        grid = config["model"]["init_args"]["generator"]["init_args"].get("voxel_size")
        return {
            "grid": f"{grid}³ voxels" if grid else "",
            "images": f"{data['renderer']['init_args']['image_size']}² images",
            "length": f"{data['total_kimg']:g} kimg",
            "shapes": source if source in SOURCES.values() else f"shapes of {source}",
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(
            f"{run.folder.config} is not the config of a table's run; remove the run, or exclude it by --only"
        ) from None


def _common(values: dict[str, str], how: str, table: str) -> str:
    """Return the value that all runs share; empty without runs.

    Raises:
        InputError: The values differ.
    """
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) > 1:
        parts = (
            f"{value} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
            for value, names in groups.items()
        )
        raise InputError(
            f"the cells of {table} were {how} differently and cannot be combined in one table: {'; '.join(parts)}; rerun "
            "them with equal settings, or select among them by --only"
        )
    return next(iter(groups), "")


def _entry(runs: list[CellRun], results: dict[str, Result | None], measurement: Measurement) -> Entry:
    """Return the mean over seeds if all are finished, else the state of the unfinished runs."""
    finished = [result for run in runs if (result := results[run.name])]
    if len(finished) == len(runs):
        fids = [result.fid for result in finished]
        sfids = [result.sfid for result in finished if result.sfid is not None]
        spatial = f" / {_mean(sfids)}" if len(sfids) == len(runs) else ""
        known = [name for name in METRICS if all(name in x.others for x in finished)]
        others = {name: _mean([x.others[name] for x in finished], DIGITS.get(name, 3)) for name in known}
        return Entry(f"{_mean(fids)}{spatial}", statistics.fmean(fids), others)
    missing = [(run, _state(run, measurement)) for run in runs if results[run.name] is None]
    if len(runs) == 1:
        return Entry(missing[0][1], None)
    states = {state for _, state in missing}
    if len(missing) == len(runs) and len(states) == 1:
        return Entry(states.pop(), None)
    return Entry("; ".join(f"seed {run.seed}: {state}" for run, state in missing), None)


def _state(run: CellRun, measurement: Measurement) -> str:
    """Describe a run without a result, such as ``running, 12 of 60 kimg``."""
    status = run.status
    if status == "finished":
        return f"finished, not measured by {measurement.label or measurement.extractor}"
    progress = run.progress() if status != "not run" else ""
    return f"{status}, {progress}" if progress else status


def _mean(values: list[float], digits: int = 1) -> str:
    """Format the mean and, of several values, the standard deviation; a dash if a value is not finite."""
    if not all(map(math.isfinite, values)):
        return "–"
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _line(run: CellRun, result: Result | None, measurement: Measurement) -> dict[str, Any]:
    return {
        "cell": run.cell.name,
        "row": run.cell.row,
        "column": run.cell.column,
        "seed": run.seed,
        "fid": result.fid if result else None,
        "sfid": result.sfid if result else None,
        **{name: result.others.get(name) if result else None for name in METRICS},
        "paper": run.cell.paper,
        "state": "finished" if result else _state(run, measurement),
        "kimg": round(run.kimg, 3) if run.kimg else None,
        "note": result.note if result else None,
        "run": Path(*run.path.parts[-2:]).as_posix(),
    }
