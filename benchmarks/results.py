"""The results file. A row is kept until the same thing is measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from renderers import InputError
from utils.files import write_atomically

FILE = Path("runs") / "benchmarks" / "benchmarks.json"
RESULT_COLUMNS = ("figure", "machine", "date", "torch")  # texts that do not identify what was measured


def read(file: Path = FILE) -> dict[str, list[dict[str, Any]]]:
    """Read the rows by benchmark; empty if the file does not exist.

    Raises:
        InputError: the file is corrupt.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        # Earlier versions stored the machine once, next to the benchmarks.
        return {name: [dict(row) for row in rows] for name, rows in content.items() if name != "machine"}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is corrupt; move it away") from error


def merge(name: str, rows: list[dict[str, Any]], stamp: dict[str, str], file: Path = FILE) -> None:
    """Write rows of one benchmark to the file and replace those that measured the same thing.

    Texts and integers of a row (``part``, ``way``, ``images``) identify what was measured; other values are results.

    Args:
        name: name of the benchmark.
        rows: rows as the benchmark returned them.
        stamp: values to add to each row: ``machine``, ``date``, ``torch``.
        file: JSON file.

    Raises:
        InputError: the file is corrupt.
    """
    content = read(file)
    kept = {identity(row): row for row in content.get(name, [])}
    content[name] = list((kept | {identity(row): row | stamp for row in rows}).values())
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=1), encoding="utf-8"))


def identity(row: dict[str, Any]) -> tuple[tuple[str, str | int], ...]:
    """Return the values that identify what a row measured."""
    return tuple((key, x) for key, x in sorted(row.items()) if isinstance(x, str | int) and key not in RESULT_COLUMNS)
