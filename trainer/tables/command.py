"""``table``: run the missing cells of a table of the papers and write the table with the papers' results.

:mod:`trainer.tables.spec` describes how a table is defined. Runs are in ``runs/tables/<table>/<cell>`` (at small scale
``<table>_small``), the written table next to them. A run shared by several tables is trained once. A finished run is
measured again for another extractor.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metrics import load_extractor
from trainer.cli import arguments
from trainer.cli.config_composition import find_config, init_args, names_yaml
from trainer.cli.session import Session
from trainer.runs.child_processes import TRAINER
from trainer.runs.proxy_pretraining import ProxyData, proxy_data, trained_proxy
from trainer.tables.report import markdown, write
from trainer.tables.results import gather
from trainer.tables.runner import TRAINING_EXTRACTOR, CellRun, Measurement, command_line, find_run, run_missing
from trainer.tables.spec import Scale, Table, load_scale, load_table
from utils.errors import InputError
from utils.signals import Signals, Stopped

SHAPENET = "ShapeNetCore.v2"
PROXY = "--model.proxy_checkpoint="


def main(argv: list[str]) -> int:
    """Run what is missing of a table and write it; return the exit status.

    Raises:
        InputError: Invalid options or definitions, runs that do not match them, or cells that failed.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    options = arguments.table().parse_args(argv[:cut])
    extra = argv[cut + 1 :]
    table = load_table(options.name)
    _check_data(options)
    scale = load_scale(options.scale, options.root or SHAPENET, options.archive)
    measurement = _measurement(options.extractor or table.extractor or scale.extractor, options)
    runs = _runs(table, scale, options, extra)
    if not options.gather:
        for run in runs:
            run.check()
    if options.commands:
        _print_commands(runs, measurement, extra)
        return 0
    failed = []
    if not options.gather:
        with Signals() as signals:
            try:
                failed = run_missing(runs, measurement, extra)
            except Stopped:
                print("stopped; run the same command to resume", file=sys.stderr)
                return signals.status
    results = gather(table, scale, runs, measurement)
    paths = write(results, _directory(table.runs, options))
    print(f"\n{markdown(results)}\nwritten to {', '.join(map(str, paths))}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; run the same command to resume them"
        )
    return 0


def _runs(table: Table, scale: Scale, options: argparse.Namespace, extra: list[str]) -> list[CellRun]:
    """Return the runs of the selected cells, one per seed."""
    length = [f"--data.total_kimg={options.kimg:g}"] if options.kimg else []
    others = sorted(options.found_in.iterdir()) if options.found_in else []
    runs = []
    for cell in table.cells(scale, options.only):
        directory, name = _directory(cell.run[0], options), cell.run[1]
        for seed in options.seeds:
            words = (*cell.words, f"--seed_everything={seed}", *length, *extra)
            path = directory / (f"{name}-seed{seed}" if seed else name)
            runs.append(CellRun(cell, seed, find_run(others, words) or path, words, options.trust))
    return runs


def _directory(table: str, options: argparse.Namespace) -> Path:
    """Return the directory of a table's runs, which depends on the scale."""
    return options.runs / (table if options.scale == "full" else f"{table}_{options.scale}")


def _measurement(extractor: str, options: argparse.Namespace) -> Measurement:
    """Return how FID is measured. Missing weights are reported now instead of after hours of training."""
    weights = options.extractor_weights
    if weights is None and (options.gather or extractor == TRAINING_EXTRACTOR):
        return Measurement(extractor, None, None if extractor == "renders" else extractor)
    try:
        return Measurement(extractor, weights, load_extractor(extractor, weights).label)
    except InputError as error:
        raise InputError(f"{error}; or select another by --extractor") from error


def _print_commands(runs: list[CellRun], measurement: Measurement, extra: list[str]) -> None:
    """Print one line per missing run to stdout, and the proxies to train first to stderr."""
    proxies: dict[str, ProxyData] = {}
    for run in runs:
        if run.status == "running":
            continue
        if line := command_line(run, measurement, extra):
            print(line)
            for name in (word.removeprefix(PROXY) for word in run.words if word.startswith(PROXY)):
                if names_yaml(name) and name not in proxies:
                    proxies[name] = proxy_data(find_config(name), _shapes(run.words))
    for name, data in sorted(proxies.items()):
        if trained_proxy(Path(name), data, finished=True) is None:
            first = shlex.join([*TRAINER, "fit", "--config", name, *data.options])
            print(f"run this first, or each run trains its own proxy: {first}", file=sys.stderr)


def _shapes(words: Sequence[str]) -> dict[str, Any] | None:
    """Return ``data.init_args.shapes`` of a ``fit`` command."""
    session = Session("fit", list(words))
    shapes = init_args(session.composed.values, "data").get("shapes")
    if shapes is None:
        return None
    given = [re.fullmatch(r"--data\.(?:init_args\.)?shapes\.(?:init_args\.)?(\w+)=(.*)", word) for word in session.rest]
    own = {match[1]: match[2] for match in given if match}
    return {**shapes, "init_args": {**shapes.get("init_args", {}), **own}}


def _check_data(options: argparse.Namespace) -> None:
    full = options.scale == "full"
    if options.archive and full:
        raise InputError("--archive requires --scale small; at full scale pass the ShapeNet directory by --root")
    if options.root and not full:
        raise InputError("--root requires --scale full; at small scale pass an archive of voxels by --archive")
    if options.found_in and not options.gather:
        raise InputError("--from requires --gather: it names runs that exist")
    if options.found_in and not options.found_in.is_dir():
        raise InputError(f"no such directory: {options.found_in}; pass the directory that contains the runs by --from")
    if options.gather or options.commands:  # the data may be on other machines
        return
    root = Path(options.root or SHAPENET)
    if full and not root.is_dir():
        raise InputError(f"no such directory: {root}; pass the ShapeNet directory by --root, or use --scale small")
    if options.archive and not Path(options.archive).is_file():
        raise InputError(f"no such archive of voxels: {options.archive}; check --archive")
