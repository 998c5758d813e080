"""Definitions of the papers' tables (``configs/tables/*.yaml``): their cells and the command that trains each cell.

A cell's command consists of the words of its column and its row; ``{…}`` are placeholders defined in ``scales.yaml`` next
to the tables. A table may measure another table's runs with another extractor (``base: table1.yaml``), and a cell may
reuse another cell's run (``same``).
"""

import difflib
import fnmatch
import math
import re
import shlex
import string
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from trainer.cli.arguments import EXTRACTORS
from trainer.cli.config_composition import PROJECT_CONFIGS, compose, names_yaml
from utils.errors import InputError

FOLDER = "tables"
SCALES = f"{FOLDER}/scales.yaml"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: Its label.
        words: Options of its cells.
        same: By column, the ``table/cell`` whose run the cell reuses.
        note: A sentence for the caption if the row is shown.
    """

    name: str
    words: str = ""
    same: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heads: Its header, one or more levels.
        words: Options of its cells.
        paper: The paper's FID by row. Rows that are not listed have no cell.
        note: A sentence for the caption if the column is shown.
    """

    heads: list[str]
    words: str
    paper: dict[str, float | None]
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """A scale at which tables are run.

    Args:
        title: Its name in captions.
        extractor: The default extractor.
        placeholders: The value of each placeholder.
        every: Options of every cell.
    """

    title: str
    extractor: str
    placeholders: dict[str, str]
    every: str

    def words(self, text: str, where: str) -> list[str]:
        """Replace the placeholders in ``text`` and split it into words.

        Args:
            text: Options with placeholders.
            where: File and cell, for error messages.

        Raises:
            InputError: A placeholder is undefined or more than a name, or a quote is not closed.
        """
        try:
            for _, name, form, conversion in string.Formatter().parse(text):
                if form or conversion or not (name is None or name.isidentifier()):
                    raise ValueError("a placeholder is only a name, such as {size}")
            return shlex.split(text.format(**self.placeholders))
        except KeyError as error:
            raise InputError(f"{where}: the placeholder {{{error.args[0]}}} is not defined in {SCALES}") from None
        except ValueError as error:
            raise InputError(f"{where}: {text!r} is not a valid command line ({error})") from None


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        name: ``<row>-<column>``.
        row: Key of its row.
        column: Key of its column.
        run: Table and cell of its run, which are also the last two directories of the run's path.
        words: Options of the ``fit`` command, without seed and length.
        paper: The paper's FID.
    """

    name: str
    row: str
    column: str
    run: tuple[str, str]
    words: tuple[str, ...]
    paper: float | None


@dataclass(frozen=True)
class Table:
    """The definition of a table.

    Args:
        name: Name of its file.
        title: First line of the caption.
        runs: The table whose directory contains the runs.
        rows: Rows by key.
        columns: Columns by key.
        paper: Extractor and source of the paper's results; empty if there are none.
        extractor: Extractor of its results; None for the scale's.
        note: Another sentence of the caption.
    """

    name: str
    title: str
    runs: str
    rows: dict[str, Row]
    columns: dict[str, Column]
    paper: str = ""
    extractor: str | None = None
    note: str = ""

    def cells(self, scale: Scale, only: list[str] | None = None) -> list[Cell]:
        """Return the cells, column by column.

        Args:
            scale: Values of the placeholders.
            only: Names of cells, which select these, and patterns, which select all cells whose names contain them.

        Raises:
            InputError: No cell matches.
        """
        pairs = self._pairs()
        names = [
            name
            for name in pairs
            if not only or any(name == part if part in pairs else fnmatch.fnmatch(name, f"*{part}*") for part in only)
        ]
        if not pairs:
            raise InputError(f"{self.name} has no cells: the paper of every column is empty; remove it or list rows")
        if not names:
            more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
            cells = f"{', '.join(list(pairs)[:6])}{more}"
            raise InputError(f"no cell of {self.name} matches {' or '.join(only or [])}; the cells are {cells}")
        return [self._cell(name, *pairs[name], scale) for name in names]

    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Return row and column of each cell, by its name."""
        cells = [(r, c) for c, column in self.columns.items() for r in self.rows if r in column.paper]
        pairs: dict[str, tuple[str, str]] = {}
        for r, c in cells:
            if (first := pairs.setdefault(f"{r}-{c}", (r, c))) != (r, c):
                raise InputError(f"two cells of {self.name} are called {r}-{c}: row {r} and row {first[0]}; rename one")
        return pairs

    def _cell(self, name: str, r: str, c: str, scale: Scale, users: tuple[str, ...] = ()) -> Cell:
        """Return a cell. ``users`` are the cells that reuse its run."""
        row, column = self.rows[r], self.columns[c]
        if c in row.same:
            table, _, other = row.same[c].rpartition("/")
            where = f"rows.{r}.same of {self.name}.yaml refers to {row.same[c]}, which"
            if row.same[c] in users:
                raise InputError(f"{where} refers back to it")
            shared = load_table(table)
            pairs = shared._pairs()
            if other not in pairs:
                raise InputError(f"{where} is not a cell")
            cell = shared._cell(other, *pairs[other], scale, (*users, row.same[c]))
            return Cell(name, r, c, cell.run, cell.words, column.paper[r])
        words = [
            word
            for text in (column.words, row.words, scale.every)
            for word in scale.words(text, f"{self.name}.yaml {name}")
        ]
        return Cell(name, r, c, (self.runs, name), tuple(words), column.paper[r])


def table_names() -> list[str]:
    """Return the names of the tables in the project."""
    return sorted(p.stem for p in (PROJECT_CONFIGS / FOLDER).glob("*.yaml") if p.name != Path(SCALES).name)


def load_table(name: str) -> Table:
    """Load a table of the project by name, or a file ``*.yaml``.

    Raises:
        InputError: No such table, or its definition is invalid.
    """
    if not names_yaml(name) and name not in table_names():
        near = difflib.get_close_matches(name, table_names(), n=1)
        fix = f"did you mean {near[0]}?" if near else f"the tables are {', '.join(table_names())}"
        raise InputError(f"no such table: {name!r}; {fix}")
    file = name if names_yaml(name) else f"{FOLDER}/{name}.yaml"
    values = compose([file]).values
    stem = Path(file).stem
    rows = {key: _build(Row, row, f"{file}: rows.{key}") for key, row in _mapping(values, "rows", file).items()}
    columns = {}
    for key, column in _mapping(values, "columns", file).items():
        column = {"paper": dict.fromkeys(rows)} | column if isinstance(column, dict) else column
        columns[key] = _build(Column, column, f"{file}: columns.{key}")
        if unknown := set(columns[key].paper) - set(rows):
            raise InputError(f"{file}: columns.{key}.paper refers to {sorted(unknown)[0]!r}, which is not a row")
    if unknown := {key for row in rows.values() for key in row.same} - set(columns):
        raise InputError(f"{file}: rows refer by same to {sorted(unknown)[0]!r}, which is not a column")
    return _build(Table, {"runs": stem, **values, "name": stem, "rows": rows, "columns": columns}, file)


def load_scale(name: str, root: str, archive: str | None) -> Scale:
    """Load a scale of ``scales.yaml``; ``small`` without an archive uses procedural shapes."""
    name = "small_procedural" if name == "small" and archive is None else name
    values = dict(compose([SCALES]).values[name])
    title, extractor, every = (values.pop(key) for key in ("says", "extractor", "every"))
    paths = {"root": shlex.quote(root), "archive": shlex.quote(archive or "")}
    return Scale(title, extractor, {key: str(value) for key, value in values.items()} | paths, every)


def _mapping(values: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    if not isinstance(values.get(key), dict) or not values[key]:
        raise InputError(f"{file} is not a table: it has no {key}")
    if wrong := [name for name in values[key] if not _is_name(name)]:
        raise InputError(
            f"{file}: the key {wrong[0][:50]!r} of {key} becomes part of the name of a directory; use up to 80 letters, "
            "digits, '_', '-', '.' and '+'"
        )
    return values[key]


def _is_name(value: Any) -> bool:
    """Whether a value can be a part of the name of a run directory."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.+ -]{0,79}", value) is not None


def _is_result(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < math.inf)


# What the values of a definition must be, by the name of the field.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("name", "title", "words", "note"), (lambda x: isinstance(x, str), "text")),
    "runs": (_is_name, "the name of a table"),
    "extractor": (lambda x: x is None or x in EXTRACTORS, f"one of {', '.join(EXTRACTORS)}"),
    "heads": (
        lambda x: isinstance(x, list) and len(x) > 0 and all(isinstance(head, str) for head in x),
        "a list of texts",
    ),
    "same": (
        lambda x: isinstance(x, dict) and all(isinstance(cell, str) and "/" in cell for cell in x.values()),
        "a mapping of columns to cells, such as table1/iggan-chairs_one",
    ),
    "paper": (
        lambda x: isinstance(x, dict) and all(map(_is_result, x.values())),
        "a mapping of rows to numbers or null",
    ),
}


def _build(kind: type, values: Any, where: str) -> Any:
    names = {f.name for f in fields(kind)}
    if not isinstance(values, dict) or (unknown := set(values) - names):
        problem = f"has an unknown key {sorted(unknown)[0]!r}" if isinstance(values, dict) else "is not a mapping"
        keys = ", ".join(sorted(names - {"name"} if kind is Table else names))
        raise InputError(f"{where} {problem}; the keys are {keys}")
    for key, value in values.items():
        accepts, what = KINDS["name"] if kind is Table and key == "paper" else KINDS.get(key, (lambda _: True, ""))
        if not accepts(value):
            raise InputError(f"{where}: {key} must be {what}, not {str(value)[:50]!r}")
    if missing := [f.name for f in fields(kind) if f.default is f.default_factory is MISSING and f.name not in values]:
        raise InputError(f"{where} lacks {' and '.join(missing)}")
    return kind(**values)
