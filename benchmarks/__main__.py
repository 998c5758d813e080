"""Run every benchmark: python -m benchmarks [NAME ...]. Prints tables and keeps them in runs/benchmarks/benchmarks.json.

There a row stands, with machine, date and version of torch, until the same is measured again.
``python -m benchmarks plan --help``: a large run on paper.
"""

from __future__ import annotations

import importlib
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks import plan, record
from renderers import InputError

NAMES = ("step", "meshgan", "opengl", "volume", "soft_rasterizer", "fid", "scaling")


def machine() -> str:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model}, {gpu}, torch {torch.__version__}, Python {platform.python_version()}"


def show(rows: list[dict[str, Any]]) -> None:
    """Rows as a table; columns in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(x) for x in column) for column in zip(columns, *cells, strict=True)]
    for line in [columns, *cells]:
        print("  ".join(x.ljust(width) for x, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; or ``plan`` with its options."""
    if names[:1] == ["plan"]:
        return plan.main(names[1:])
    unknown = set(names) - set(NAMES)
    if unknown:
        print(
            f"error: no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    print(machine())
    try:
        record.read()  # before hours of measuring
        for name in names or NAMES:
            rows = importlib.import_module(f"benchmarks.{name}").run()
            print(f"\n== {name}")
            show(rows)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            record.merge(name, rows, {"machine": machine(), "date": date, "torch": torch.__version__})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{record.FILE}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else a training that was started would go on alone
    sys.exit(main(sys.argv[1:]))
