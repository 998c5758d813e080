"""``table``: run a table of the papers cell by cell, and gather what has finished beside the papers' figures.

``trainer.tables.spec`` tells how a table is defined. A run lies in ``runs/tables/<table>/<cell>`` (at small
scale ``<table>_small``), the table beside them. A run that tables share is trained once; a finished one is measured again
for another extractor.
"""

import argparse
import shlex
import sys
from pathlib import Path

from metrics import load_extractor
from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.cli.config_composition import names_yaml
from trainer.runs.run_directory import newest_run
from trainer.tables.report import gather, markdown, write
from trainer.tables.runner import TRAINER, TRAINS_WITH, CellRun, Measure, command_line, run_missing
from trainer.tables.spec import Scale, Table, load_scale, load_table
from utils.errors import InputError
from utils.signals import Signals, Stopped

SHAPENET = "ShapeNetCore.v2"
PROXY = "--model.proxy_checkpoint="


def main(argv: list[str]) -> int:
    """Run what is missing of a table and write it; returns the exit status.

    Raises:
        InputError: options, definitions or runs that cannot be used, or cells that failed.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    options = parse(arguments.table(), argv[:cut])
    if options is None:
        return 0
    extra = argv[cut + 1 :]
    table = load_table(options.name)
    _check_data(options)
    scale = load_scale(options.scale, options.root or SHAPENET, options.archive)
    measure = _measure(options.extractor or table.extractor or scale.extractor, options)
    runs = _runs(table, scale, options, extra)
    if not options.gather:
        for run in runs:
            run.check()
    if options.commands:
        _print_commands(runs, measure, extra)
        return 0
    failed = []
    if not options.gather:
        with Signals() as signals:
            try:
                failed = run_missing(runs, measure, extra)
            except Stopped:
                print("stopped; the same command goes on", file=sys.stderr)
                return signals.status
    sheet = gather(table, scale, runs, measure)
    paths = write(sheet, _home(table.runs, options))
    print(f"\n{markdown(sheet)}\nwritten to {', '.join(map(str, paths))}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command continues them"
        )
    return 0


def _runs(table: Table, scale: Scale, options: argparse.Namespace, extra: list[str]) -> list[CellRun]:
    """The runs of the chosen cells, one a seed."""
    length = [f"--data.total_kimg={options.kimg:g}"] if options.kimg else []
    runs = []
    for cell in table.cells(scale, options.only):
        home, name = _home(cell.run[0], options), cell.run[1]
        for seed in options.seeds:
            words = (*cell.words, f"--seed_everything={seed}", *length, *extra)
            runs.append(CellRun(cell, seed, home / (f"{name}-seed{seed}" if seed else name), words))
    return runs


def _home(table: str, options: argparse.Namespace) -> Path:
    """The folder of a table's runs: the scales keep apart."""
    return options.runs / (table if options.scale == "full" else f"{table}_{options.scale}")


def _measure(extractor: str, options: argparse.Namespace) -> Measure:
    """How figures are measured; weights that are not there are told of before hours of training, not after."""
    weights = options.extractor_weights
    if weights is None and (options.gather or extractor == TRAINS_WITH):
        return Measure(extractor, None, None if extractor == "renders" else extractor)
    try:
        return Measure(extractor, weights, load_extractor(extractor, weights).label)
    except InputError as error:
        raise InputError(f"{error}; or choose another by --extractor") from error


def _print_commands(runs: list[CellRun], measure: Measure, extra: list[str]) -> None:
    """One line a run that is missing on stdout; on stderr what should come first."""
    proxies = set()
    for run in runs:
        if run.status == "running":
            continue
        if line := command_line(run, measure, extra):
            print(line)
            proxies |= {word.removeprefix(PROXY) for word in run.words if word.startswith(PROXY)}
    for name in sorted(filter(names_yaml, proxies)):
        if newest_run(Path(name).stem, finished=True) is None:
            first = shlex.join([*TRAINER, "fit", "--config", name])
            print(f"before these, once, or each would train its own: {first}", file=sys.stderr)


def _check_data(options: argparse.Namespace) -> None:
    full = options.scale == "full"
    if options.archive and full:
        raise InputError("--archive is for --scale small; at full scale say where ShapeNet is, by --root")
    if options.root and not full:
        raise InputError("--root is for --scale full; at small scale --archive names an archive of voxels")
    if options.gather or options.commands:  # the data may lie on other machines
        return
    if full and not Path(options.root or SHAPENET).is_dir():
        raise InputError(
            f"there is no folder {options.root or SHAPENET}; say where ShapeNet is by --root, or choose --scale small"
        )
    if options.archive and not Path(options.archive).is_file():
        raise InputError(f"there is no archive of voxels at {options.archive}")
