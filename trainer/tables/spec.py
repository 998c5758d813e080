"""The cells of the papers' tables and the command that trains each; the definitions are ``configs/tables/*.yaml``.

A cell's command is the words of its column and its row, in which ``{…}`` stands for words of ``scales.yaml`` beside
the tables. A table may be another's runs seen by another extractor (``base: table1.yaml``), a cell another's (``same``).
"""

import difflib
import fnmatch
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trainer.cli.config_composition import PROJECT_CONFIGS, compose, names_yaml
from utils.errors import InputError

FOLDER = "tables"
SCALES = f"{FOLDER}/scales.yaml"


@dataclass(frozen=True)
class Row:
    """What the cells of a row share; ``same`` names, by column, the cell of another table whose run a cell is.

    ``note`` is a sentence of the caption wherever the row is shown.
    """

    name: str
    words: str = ""
    same: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Column:
    """What the cells of a column share; ``paper`` holds the figures by row, and a row that it leaves out has no cell.

    ``note`` is one of the caption, likewise.
    """

    heads: list[str]
    words: str
    paper: dict[str, float | None]
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """What the words of a table stand for.

    Args:
        says: its name in captions.
        extractor: that tables are measured by unless they say otherwise.
        stands: the words behind each placeholder.
        every: words that every cell is given.
    """

    says: str
    extractor: str
    stands: dict[str, str]
    every: str

    def words(self, text: str, where: str) -> list[str]:
        """The words of ``text`` with every placeholder replaced.

        Raises:
            InputError: a placeholder stands for nothing, or a quote is not closed.
        """
        try:
            return shlex.split(text.format(**self.stands))
        except KeyError as error:
            raise InputError(f"{where}: {{{error.args[0]}}} stands for nothing in {SCALES}") from None
        except (ValueError, IndexError, AttributeError) as error:
            raise InputError(f"{where}: {text!r} is no command line ({error})") from None


@dataclass(frozen=True)
class Cell:
    """One figure of a table.

    Args:
        name: ``<row>-<column>``.
        row: key of its row.
        column: key of its column.
        run: table and cell whose run it is; the two are the folders of its path.
        words: of the ``fit`` command, without seed and length.
        paper: the paper's figure.
    """

    name: str
    row: str
    column: str
    run: tuple[str, str]
    words: tuple[str, ...]
    paper: float | None


@dataclass(frozen=True)
class Table:
    """A definition as it is read.

    Args:
        name: of its file.
        title: first line of the caption.
        paper: what the paper's figures were measured with, and where they stand.
        runs: the table whose folder holds the runs.
        rows: by key.
        columns: by key.
        extractor: that it is measured by; the scale's if None.
        note: another sentence of the caption.
    """

    name: str
    title: str
    paper: str
    runs: str
    rows: dict[str, Row]
    columns: dict[str, Column]
    extractor: str | None = None
    note: str = ""

    def cells(self, scale: Scale, only: list[str] | None = None) -> list[Cell]:
        """The cells, column by column.

        Args:
            scale: what placeholders stand for.
            only: patterns, of which a cell's name must hold one.

        Raises:
            InputError: no cell does.
        """
        pairs = {f"{r}-{c}": (r, c) for c, column in self.columns.items() for r in self.rows if r in column.paper}
        chosen = [name for name in pairs if not only or any(fnmatch.fnmatch(name, f"*{one}*") for one in only)]
        if not chosen:
            raise InputError(f"no cell of {self.name} is called {' or '.join(only or [])}; they are {', '.join(pairs)}")
        return [self._cell(name, *pairs[name], scale) for name in chosen]

    def _cell(self, name: str, r: str, c: str, scale: Scale) -> Cell:
        row, column = self.rows[r], self.columns[c]
        if c in row.same:
            table, _, other = row.same[c].partition("/")
            twin = next((cell for cell in load_table(table).cells(scale) if cell.name == other), None)
            if twin is None:
                raise InputError(f"rows.{r}.same of {self.name}.yaml names {row.same[c]}, which is no cell")
            return Cell(name, r, c, twin.run, twin.words, column.paper[r])
        words = [
            word
            for text in (column.words, row.words, scale.every)
            for word in scale.words(text, f"{self.name}.yaml {name}")
        ]
        return Cell(name, r, c, (self.runs, name), tuple(words), column.paper[r])


def table_names() -> list[str]:
    """The tables that come with the project."""
    return sorted(p.stem for p in (PROJECT_CONFIGS / FOLDER).glob("*.yaml") if p.name != Path(SCALES).name)


def load_table(name: str) -> Table:
    """The table called ``name``, or that of a file ``*.yaml``.

    Raises:
        InputError: there is none, or it is no definition of a table.
    """
    if not names_yaml(name) and name not in table_names():
        near = difflib.get_close_matches(name, table_names(), n=1)
        cure = f"did you mean {near[0]}?" if near else f"the tables are {', '.join(table_names())}"
        raise InputError(f"there is no table {name!r}; {cure}")
    file = name if names_yaml(name) else f"{FOLDER}/{name}.yaml"
    values = compose([file]).values
    stem = Path(file).stem
    rows = {key: _build(Row, row, f"{file}: rows.{key}") for key, row in _mapping(values, "rows", file).items()}
    columns = {}
    for key, column in _mapping(values, "columns", file).items():
        column = {"paper": dict.fromkeys(rows)} | column if isinstance(column, dict) else column
        columns[key] = _build(Column, column, f"{file}: columns.{key}")
        if unknown := set(columns[key].paper) - set(rows):
            raise InputError(f"{file}: columns.{key}.paper names {sorted(unknown)[0]!r}, which is no row")
    return _build(Table, {"runs": stem, **values, "name": stem, "rows": rows, "columns": columns}, file)


def load_scale(name: str, root: str, archive: str | None) -> Scale:
    """A scale of ``scales.yaml``; ``small`` without an archive is that of procedural shapes."""
    name = "small_procedural" if name == "small" and archive is None else name
    values = dict(compose([SCALES]).values[name])
    says, extractor, every = (values.pop(key) for key in ("says", "extractor", "every"))
    places = {"root": shlex.quote(root), "archive": shlex.quote(archive or "")}
    return Scale(says, extractor, {key: str(value) for key, value in values.items()} | places, every)


def _mapping(values: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    if not isinstance(values.get(key), dict) or not values[key]:
        raise InputError(f"{file} is no table: it has no {key}")
    return values[key]


def _build(kind: type, values: Any, where: str) -> Any:
    names = {f.name for f in fields(kind)}
    if not isinstance(values, dict) or (unknown := set(values) - names):
        what = f"has no key {sorted(unknown)[0]!r}" if isinstance(values, dict) else "holds no keys"
        raise InputError(f"{where} {what}; it takes {', '.join(sorted(names - {'name'} if kind is Table else names))}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where} is not whole: {str(error).partition('missing ')[2]}") from None
