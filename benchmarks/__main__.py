"""Run benchmarks: python -m benchmarks [NAME ...]. Prints tables and writes them to runs/benchmarks/benchmarks.json.

A row of that file, with machine, date and torch version, is kept until the same thing is measured again.
``python -m benchmarks gpu --help``: check and measure a CUDA card.
``python -m benchmarks plan --help``: estimate a large run. ``python -m benchmarks judge --help``: how metrics order
corrupted images. ``python -m benchmarks judge_runs --help``: how they order checkpoints.
``python -m benchmarks initial_shape --help``: which setting of MeshGAN decides between convex and hollow heads.
"""

from __future__ import annotations

import importlib
import signal
import sys
from datetime import UTC, datetime

import torch

from benchmarks import gpu, initial_shape, judge, judge_runs, plan, results
from benchmarks.output import machine, show
from renderers import InputError

NAMES = ("step", "meshgan", "opengl", "volume", "soft_rasterizer", "fid", "evaluation", "scaling")
COMMANDS = {
    "gpu": gpu.main,
    "plan": plan.main,
    "judge": judge.main,
    "judge_runs": judge_runs.main,
    "initial_shape": initial_shape.main,
}


def main(names: list[str]) -> int:
    """Run the named benchmarks or all of them, or a command with its options; return the exit status."""
    if names and names[0] in COMMANDS:
        return COMMANDS[names[0]](names[1:])
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"error: no such benchmark: {', '.join(sorted(unknown))}; use {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(machine())
    try:
        results.read()  # fail before hours of measuring
        for name in names or NAMES:
            rows = importlib.import_module(f"benchmarks.{name}").run()
            print(f"\n== {name}")
            show(rows)
            date = datetime.now(UTC).isoformat(timespec="seconds")
            results.merge(name, rows, {"machine": machine(), "date": date, "torch": torch.__version__})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{results.FILE}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also ends trainings in subprocesses
    sys.exit(main(sys.argv[1:]))
