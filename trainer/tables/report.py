"""A table as Markdown, CSV and an image: ours beside the paper's, and what is not there said in words."""

import csv
import statistics
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.tables.runner import CellRun, Figure, Measure
from trainer.tables.spec import Cell, Scale, Table
from utils.errors import InputError
from utils.files import write_atomically

SOURCES = {"ShapeNetShapes": "ShapeNet", "ProceduralShapes": "procedural shapes"}
CSV_KEYS = ("cell", "row", "column", "seed", "fid", "paper", "state", "kimg", "note", "run")


@dataclass(frozen=True)
class Entry:
    """What stands in one cell: a figure (the mean over seeds), or the state of what is unfinished."""

    text: str
    fid: float | None


@dataclass(frozen=True)
class Sheet:
    """A gathered table.

    Args:
        table: its definition.
        cells: those that are shown.
        entries: by cell.
        caption: title, then how ours and the paper's figures were measured, then notes.
        lines: one a run, with :data:`CSV_KEYS`.
    """

    table: Table
    cells: list[Cell]
    entries: dict[str, Entry]
    caption: list[str]
    lines: list[dict[str, Any]]

    @property
    def rows(self) -> list[str]:
        """Keys of the rows that have a cell here, in the table's order."""
        return [key for key in self.table.rows if any(cell.row == key for cell in self.cells)]

    @property
    def columns(self) -> list[str]:
        """Keys of the columns that have a cell here, in the table's order."""
        return [key for key in self.table.columns if any(cell.column == key for cell in self.cells)]

    @property
    def best(self) -> set[str]:
        """The cell with the lowest of our figures in each column where all are there to compare."""
        found = set()
        for column in self.columns:
            cells = [cell for cell in self.cells if cell.column == column]
            figures = {cell.name: self.entries[cell.name].fid for cell in cells}
            if len(cells) > 1 and None not in figures.values():
                found.add(min(figures, key=figures.__getitem__))
        return found

    def at(self, row: str, column: str) -> Cell | None:
        """The cell of a row and a column."""
        return next((cell for cell in self.cells if (cell.row, cell.column) == (row, column)), None)


def gather(table: Table, scale: Scale, runs: list[CellRun], measure: Measure) -> Sheet:
    """Read the runs of a table's cells.

    Raises:
        InputError: figures that cannot stand in one table, because they were measured or trained differently.
    """
    cells = list({run.cell.name: run.cell for run in runs}.values())
    figures = {run.name: run.figure(measure) for run in runs}
    finished = [run for run in runs if figures[run.name]]
    note = _one({run.name: figures[run.name].note for run in finished}, "measured", table.name)
    settings = {run.name: _settings(run) for run in finished}
    trained = {
        name: ", ".join(parts[key] for key in ("images", "length", "shapes")) for name, parts in settings.items()
    }
    how = _one(trained, "trained", table.name)
    grid = _one({name: parts["grid"] for name, parts in settings.items() if parts["grid"]}, "trained", table.name)
    entries, lines = {}, []
    for cell in cells:
        of_cell = [run for run in runs if run.cell is cell]
        entries[cell.name] = _entry(of_cell, figures, measure)
        lines += [_line(run, figures[run.name], measure) for run in of_cell]
    seeds = sorted({run.seed for run in runs})
    ours = "no cell is finished"
    if finished:
        ours = ", ".join(
            [*filter(None, [grid]), how, f"seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}", note]
        )
    several = "; mean ± deviation over the seeds" if len(seeds) > 1 else ""
    # Every classifier of renders has features of its own; ImageNet's are the same everywhere.
    alike = measure.extractor == table.extractor == "imagenet" and scale.extractor == "renders"
    notes = [part.note for key, part in table.rows.items() if any(cell.row == key for cell in cells)]
    notes += [part.note for key, part in table.columns.items() if any(cell.column == key for cell in cells)]
    caption = [
        f"{table.title}. Lower is better; bold is our best of a whole column.",
        f"Ours, at the end of training ({scale.says}): {ours}{several}.",
        f"In brackets the paper's: {table.paper}; 64³ voxels, 128² images, ShapeNet."
        + ("" if alike else " The two may be compared by order, not by size."),
        *filter(None, [table.note, *notes]),
    ]
    return Sheet(table, cells, entries, caption, lines)


def write(sheet: Sheet, folder: Path) -> list[Path]:
    """Write ``<table>.md``, ``.csv`` and ``.png``; returns their paths."""
    paths = [folder / f"{sheet.table.name}.{kind}" for kind in ("md", "csv", "png")]
    write_atomically(paths[0], lambda path: path.write_text(markdown(sheet), encoding="utf-8") and None)
    write_atomically(paths[1], lambda path: _write_csv(path, sheet.lines))
    write_atomically(paths[2], lambda path: _draw(path, sheet))
    return paths


def markdown(sheet: Sheet) -> str:
    """The table in Markdown; the best of ours in each whole column is bold."""
    heads = [", ".join(sheet.table.columns[key].heads) for key in sheet.columns]
    rows = [["", *heads], ["---"] * (1 + len(heads))]
    for key in sheet.rows:
        cells = [sheet.at(key, column) for column in sheet.columns]
        rows.append([sheet.table.rows[key].name, *[_marked(sheet, cell) for cell in cells]])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{' '.join(sheet.caption)}\n"


def _marked(sheet: Sheet, cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = sheet.entries[cell.name].text
    return f"{f'**{text}**' if cell.name in sheet.best else text}{_paper(cell, ' ')}"


def _paper(cell: Cell, gap: str) -> str:
    return "" if cell.paper is None else f"{gap}({cell.paper:.1f})"


def _entry(runs: list[CellRun], figures: dict[str, Figure | None], measure: Measure) -> Entry:
    """The mean over seeds once all are there; before that, what is missing."""
    values = [figure.fid for run in runs if (figure := figures[run.name])]
    if len(values) == len(runs):
        mean = statistics.fmean(values)
        return Entry(f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}", mean)
    missing = [(run, _state(run, measure)) for run in runs if figures[run.name] is None]
    if len(runs) == 1:
        return Entry(missing[0][1], None)
    states = {state for _, state in missing}
    if len(missing) == len(runs) and len(states) == 1:
        return Entry(states.pop(), None)
    return Entry("; ".join(f"seed {run.seed}: {state}" for run, state in missing), None)


def _state(run: CellRun, measure: Measure) -> str:
    """A run without a figure in words, such as ``running, 12 of 60 kimg``."""
    status = run.status
    if status == "finished":
        return f"finished, not measured by {measure.label or measure.extractor}"
    progress = run.progress() if status != "not run" else ""
    return f"{status}, {progress}" if progress else status


def _line(run: CellRun, figure: Figure | None, measure: Measure) -> dict[str, Any]:
    known = {"cell": run.cell.name, "row": run.cell.row, "column": run.cell.column, "seed": run.seed}
    known |= {"fid": figure.fid if figure else None, "paper": run.cell.paper, "note": figure.note if figure else None}
    known |= {"state": "finished" if figure else _state(run, measure), "kimg": round(run.kimg, 3) if run.kimg else None}
    return known | {"run": Path(*run.path.parts[-2:]).as_posix()}


def _settings(run: CellRun) -> dict[str, str]:
    """What of a run's config the caption says.

    Raises:
        InputError: the config is not there, or not that of images of shapes.
    """
    try:
        config = run.settings
        data = config["data"]["init_args"]
        shapes = data["shapes"]
        path = shapes["init_args"].get("path")
        kind = shapes["class_path"].rpartition(".")[2]
        grid = config["model"]["init_args"]["generator"]["init_args"].get("voxel_size")
        return {
            "grid": f"{grid}³ voxels" if grid else "",
            "images": f"{data['renderer']['init_args']['image_size']}² images",
            "length": f"{data['total_kimg']:g} kimg",
            "shapes": SOURCES.get(kind) or (f"shapes of {Path(path).name}" if path else kind),
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(
            f"{run.folder.config} does not say what was run; remove the run, or leave it out by --only"
        ) from None


def _one(values: dict[str, str], how: str, table: str) -> str:
    """What all cells have in common.

    Raises:
        InputError: they do not.
    """
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) > 1:
        parts = (f"{value} ({_some(names)})" for value, names in groups.items())
        raise InputError(
            f"the cells of {table} were {how} differently and cannot stand in one table: {'; '.join(parts)}; make "
            "them alike, or choose among them by --only"
        )
    return next(iter(groups), "")


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _write_csv(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_KEYS)
        writer.writeheader()
        writer.writerows(lines)


def _draw(path: Path, sheet: Sheet) -> None:
    from matplotlib.figure import Figure as Canvas  # without pyplot: no display, no global state

    rows, columns = sheet.rows, sheet.columns
    caption = "\n".join(textwrap.fill(part, 34 + 20 * len(columns)) for part in sheet.caption)
    width, height = 2 + 1.35 * len(columns), 0.6 * (1 + len(rows))
    below = 0.14 * (1 + caption.count("\n")) + 0.2
    canvas = Canvas(figsize=(width, height + below))
    axes = canvas.add_axes((0.01, below / (height + below), 0.98, height / (height + below) * 0.97))
    axes.set_axis_off()
    heads = ["", *["\n".join(sheet.table.columns[key].heads) for key in columns]]
    shares = [2 / width, *[1.35 / width] * len(columns)]
    drawn = axes.table([["\n"] * len(heads)] * (1 + len(rows)), colWidths=shares, cellLoc="center", bbox=(0, 0, 1, 1))
    drawn.auto_set_font_size(False)
    for (i, j), box in drawn.get_celld().items():
        box.set_edgecolor("#dddddd")
        box.visible_edges = "B"
        text = box.get_text()
        text.set_fontsize(8)
        if i == 0 or j == 0:
            text.set_text(heads[j] if i == 0 else sheet.table.rows[rows[i - 1]].name)
            text.set_fontweight("bold")
        elif cell := sheet.at(rows[i - 1], columns[j - 1]):
            entry = sheet.entries[cell.name]
            text.set_text(entry.text.replace(", ", ",\n") + _paper(cell, "\n"))
            text.set_fontweight("bold" if cell.name in sheet.best else "normal")
            text.set_color("black" if entry.fid is not None else "#888888")
        else:
            text.set_text("")
    canvas.text(0.01, (below - 0.1) / (height + below), caption, va="top", fontsize=7.5)
    canvas.savefig(path, format="png", dpi=150)
