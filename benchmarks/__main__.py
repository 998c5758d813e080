"""Run every benchmark: python -m benchmarks [NAME ...]. Prints tables, writes benchmarks.json into runs/benchmarks."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

NAMES = ("step", "meshgan", "opengl", "volume", "soft_rasterizer", "fid")


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
    """Run the named benchmarks, or all."""
    unknown = set(names) - set(NAMES)
    if unknown:
        print(
            f"error: no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    print(machine())
    results = {"machine": machine()}
    for name in names or NAMES:
        rows = importlib.import_module(f"benchmarks.{name}").run()
        results[name] = rows
        print(f"\n== {name}")
        show(rows)
    file = Path("runs") / "benchmarks" / "benchmarks.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))
    print(f"\n{file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
