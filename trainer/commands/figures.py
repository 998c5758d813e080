"""``figures``: the papers' figures of a trained model, of any method, and of its data in the same format."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.cli.log_filters import quiet
from trainer.runs.data_loading import DataOf
from trainer.runs.loading import LoadedRun, load_generator
from trainer.runs.run_directory import RunDirectory, write
from utils.errors import InputError
from visualization.paper_figures import DATA_FIGURES, Choice, Draw, Figure, UndrawableError, figures_of, write_figure

MOST = 4096  # images a figure


def main(argv: list[str]) -> int:
    """Draw the figures; returns the exit status.

    Raises:
        InputError: options, a run, a checkpoint or data that cannot be used.
    """
    overrides = [word for word in argv if word.startswith("--data.") and "=" in word]
    options = parse(arguments.figures(), [word for word in argv if word not in overrides])
    if options is None:
        return 0
    if (options.run_dir is None) == (options.config is None):
        raise InputError("say either which run, by --run_dir, or by --config whose data to draw")
    if options.run_dir and not RunDirectory(options.run_dir).config.is_file():
        raise InputError(f"--run_dir {options.run_dir} is no run: it has no config.yaml")
    if options.rows * options.columns > MOST:
        raise InputError(f"--rows {options.rows} and --columns {options.columns} are more than {MOST} images a figure")
    config = RunDirectory(options.run_dir).config if options.run_dir else options.config
    with quiet():
        drawn = _draw(_to_draw(options, DataOf(config, overrides)), options)
    if not drawn:
        raise InputError("there is nothing to draw, for the reasons above")
    return 0


def _draw(to_draw: dict[str, Callable[[], Figure]], options: argparse.Namespace) -> int:
    """Write each figure, and captions of all that stand there; returns how many could be drawn."""
    folder = options.output or Path(options.run_dir or ".") / "figures"
    drawn = 0
    for name, draw in to_draw.items():
        try:
            figure = draw()
        except UndrawableError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
        print(write_figure(figure, options.size, folder), flush=True)
        _add_caption(folder / "captions.md", figure)
        drawn += 1
    return drawn


def _add_caption(path: Path, figure: Figure) -> None:
    """A line a figure, in order of name; the figure's old one is replaced."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    start = f"- `{figure.name}.png`: "
    kept = [line for line in lines if not line.startswith(start)]
    write(path, "\n".join(sorted([*kept, start + figure.caption])) + "\n")


def _to_draw(options: argparse.Namespace, data: DataOf) -> dict[str, Callable[[], Figure]]:
    """The figures to draw, by name. What is missing for one of them is told of before the first is drawn."""
    asked = options.only
    choice = Choice(
        rows=options.rows,
        columns=options.columns,
        numbers=None if options.numbers is None else tuple(options.numbers),
        views=data.reference_views,
        zoom=options.zoom,
        psis=options.psi,
        seed=options.sample_seed,
    )
    samples, whose = {}, "a config without a run"
    if options.run_dir and (asked is None or set(asked) - DATA_FIGURES.keys()):
        run = load_generator(options.run_dir, options.ckpt_path)
        module = run.module
        whose = type(module).__name__
        samples = {name: partial(_draw_of, run, draw, choice) for name, draw in figures_of(module).items()}
        module.sample_seed = options.sample_seed
        _truncate(module, options)
    known = [*samples, *DATA_FIGURES]
    if missing := [name for name in asked or () if name not in known]:
        raise InputError(f"there is no figure {missing[0]!r}; {whose} has {', '.join(known)}")
    wanted = [name for name in known if asked is None or name in asked]
    of_data = [name for name in wanted if name in DATA_FIGURES]
    try:
        loaded = data.load() if of_data else None
    except InputError as error:
        if asked or not samples:
            raise
        raise InputError(f"{error}; --only {','.join(samples)} leaves the data out") from error
    return {name: samples[name] if name in samples else partial(DATA_FIGURES[name], loaded, choice) for name in wanted}


def _draw_of(run: LoadedRun, draw: Draw, choice: Choice) -> Figure:
    """A figure of a run's samples whose caption says of which."""
    figure = draw(run.module, choice)
    note = f"Run {run.name}, {run.checkpoint.name} at {run.module.kimg:g} kimg, sample seed {run.module.sample_seed}."
    return replace(figure, caption=f"{figure.caption} {note}")


def _truncate(module: object, options: argparse.Namespace) -> None:
    """The truncation that is asked for; the run's if none is."""
    for name in ("truncation", "truncation_cutoff"):
        value = getattr(options, name)
        if value is None:
            continue
        if not hasattr(module, name):
            raise InputError(f"--{name} is for MeshGAN; {type(module).__name__} truncates nothing")
        setattr(module, name, None if value == "none" else value)
