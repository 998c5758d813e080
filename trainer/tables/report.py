"""A table as Markdown, CSV and an image: our results with the paper's."""

import csv
import textwrap
from pathlib import Path
from typing import Any

from trainer.tables.results import TableResults
from trainer.tables.runner import IMAGE_METRICS, OVERFITTING, SHAPE_METRICS
from trainer.tables.spec import Cell
from utils.errors import printable
from utils.files import write_atomically

NAMES = {
    "d_train": "D of training images",
    "d_held_out": "D of held-out images",
    "d_gap": "gap",
    "kid": "KID",
    "image_coverage": "image coverage",
    "mmd": "MMD",
    "one_nn_accuracy": "1-NN accuracy",
    "largest_piece": "largest piece",
    "nearest_iou": "IoU with the nearest training shape",
}


def write(results: TableResults, folder: Path) -> list[Path]:
    """Write ``<table>.md``, ``.csv`` and ``.png``; return their paths."""
    paths = [folder / f"{results.table.name}.{kind}" for kind in ("md", "csv", "png")]
    write_atomically(paths[0], lambda path: path.write_text(markdown(results), encoding="utf-8") and None)
    write_atomically(paths[1], lambda path: _write_csv(path, results.lines))
    write_atomically(paths[2], lambda path: _plot(path, results))
    return paths


def markdown(results: TableResults) -> str:
    """Format the table as Markdown."""
    heads = [", ".join(results.table.columns[key].heads) for key in results.columns]
    rows = [["", *heads], ["---"] * (1 + len(heads))]
    for key in results.rows:
        cells = [results.at(key, column) for column in results.columns]
        rows.append([results.table.rows[key].name, *[_format_cell(results, cell) for cell in cells]])
    images = _metrics(results, IMAGE_METRICS, "Other metrics of the images, by the same features.")
    logits = "Mean logits of D; the gap is their difference in standard deviations of the logits."
    overfitting = _metrics(results, OVERFITTING, logits)
    caption = (
        "The shapes of the last evaluation, compared with as many reference shapes of the data. A dash: all shapes of a run "
        "are empty, and their images are black."
    )
    shapes = _metrics(results, SHAPE_METRICS, caption)
    return f"{_grid(rows)}\n\n{' '.join(results.caption)}\n{images}{overfitting}{shapes}"


def _metrics(results: TableResults, names: tuple[str, ...], caption: str) -> str:
    """Format those of the metrics that any cell has, one line per cell; empty if there are none."""
    known = [name for name in names if any(name in entry.others for entry in results.entries.values())]
    rows = [
        [
            results.table.rows[cell.row].name,
            ", ".join(results.table.columns[cell.column].heads),
            *(entry.others.get(name, "") for name in known),
        ]
        for cell in results.cells
        if (entry := results.entries[cell.name]).others.keys() & known
    ]
    if not rows:
        return ""
    heads = ["", "", *(NAMES.get(name, name) for name in known)]
    return f"\n{_grid([heads, ['---'] * len(heads), *rows])}\n\n{caption}\n"


def _grid(rows: list[list[str]]) -> str:
    rows = [[" ".join(printable(text).split()).replace("|", "\\|") for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _format_cell(results: TableResults, cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = results.entries[cell.name].text
    return f"{f'**{text}**' if cell.name in results.best else text}{_paper(cell, ' ')}"


def _paper(cell: Cell, gap: str) -> str:
    return "" if cell.paper is None else f"{gap}({cell.paper:.1f})"


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _plot(path: Path, results: TableResults) -> None:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.transforms import Bbox

    rows, columns = results.rows, results.columns
    caption = "\n".join(textwrap.fill(part, 34 + 20 * len(columns)) for part in results.caption)
    width, height = 2 + 1.35 * len(columns), 0.6 * (1 + len(rows))
    below = 0.14 * (1 + caption.count("\n")) + 0.2
    figure = Figure(figsize=(width, height + below))
    axes = figure.add_axes((0.01, below / (height + below), 0.98, height / (height + below) * 0.97))
    axes.set_axis_off()
    heads = ["", *["\n".join(results.table.columns[key].heads) for key in columns]]
    shares = [2 / width, *[1.35 / width] * len(columns)]
    grid = axes.table([["\n"] * len(heads)] * (1 + len(rows)), colWidths=shares, cellLoc="center", bbox=Bbox.unit())
    grid.auto_set_font_size(False)
    for (i, j), box in grid.get_celld().items():
        box.set_edgecolor("#dddddd")
        box.visible_edges = "B"
        text = box.get_text()
        text.set_fontsize(8)
        if i == 0 or j == 0:
            text.set_text(heads[j] if i == 0 else results.table.rows[rows[i - 1]].name)
            text.set_fontweight("bold")
        elif cell := results.at(rows[i - 1], columns[j - 1]):
            entry = results.entries[cell.name]
            text.set_text(entry.text.replace(", ", ",\n").replace(" / ", " /\n") + _paper(cell, "\n"))
            text.set_fontweight("bold" if cell.name in results.best else "normal")
            text.set_color("black" if entry.fid is not None else "#888888")
        else:
            text.set_text("")
        text.set_parse_math(False)
    figure.text(0.01, (below - 0.1) / (height + below), caption, va="top", fontsize=7.5, parse_math=False)
    figure.savefig(path, format="png", dpi=150)
