"""The file of what was measured: each row stands until the same thing is measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from renderers import InputError
from utils.files import write_atomically

FILE = Path("runs") / "benchmarks" / "benchmarks.json"
MEASURED = ("figure", "machine", "date", "torch")  # texts that do not say what was measured


def read(file: Path = FILE) -> dict[str, list[dict[str, Any]]]:
    """Rows by benchmark; none if there is no such file.

    Raises:
        InputError: it is damaged.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        # An earlier form had the machine once, beside the benchmarks.
        return {name: [dict(row) for row in rows] for name, rows in content.items() if name != "machine"}
    except (OSError, ValueError, TypeError, AttributeError) as damage:
        raise InputError(f"{file} is damaged; move it away") from damage


def merge(name: str, rows: list[dict[str, Any]], stamp: dict[str, str], file: Path = FILE) -> None:
    """Put rows of one benchmark into the file, in place of those that measured the same.

    What a row measured is told by its texts and whole numbers (``part``, ``way``, ``images``); others tell what came out.

    Args:
        name: of the benchmark.
        rows: as it gave them.
        stamp: what else each row keeps: ``machine``, ``date``, ``torch``.
        file: JSON.

    Raises:
        InputError: the file is damaged.
    """
    content = read(file)
    kept = {identity(row): row for row in content.get(name, [])}
    content[name] = list((kept | {identity(row): row | stamp for row in rows}).values())
    write_atomically(file, lambda path: path.write_text(json.dumps(content, indent=1), encoding="utf-8") and None)


def identity(row: dict[str, Any]) -> tuple[tuple[str, str | int], ...]:
    """What a row measured."""
    return tuple((key, x) for key, x in sorted(row.items()) if isinstance(x, str | int) and key not in MEASURED)
