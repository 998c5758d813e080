"""``figures``: render the papers' figures of a trained model and of its data."""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from datamodules import ShapeNetRenderDataModule
from lightning_modules import MeshGANModule
from lightning_modules.voxel_generative import VoxelGenerativeModule
from trainer.cli import arguments
from trainer.cli.argument_types import split_data_options
from trainer.cli.log_filters import quiet
from trainer.export.unused_options import given_options, refuse_unused
from trainer.runs.loading import ExperimentConfig, LoadedRun, load_generator, open_run
from utils.errors import InputError
from utils.files import write_text
from visualization.images import check_replaceable_result
from visualization.paper_figures import (
    DATA_FIGURES,
    Figure,
    FigureFunction,
    FigureOptions,
    FigureUnavailableError,
    figures_of,
    write_figure,
)

MAX_IMAGES = 4096  # per figure
_CAPTION = re.compile(r"- `\w+\.png`: ")


def main(argv: list[str]) -> int:
    """Write the figures; return the exit status.

    Raises:
        InputError: Invalid options, or a run, checkpoint or data that cannot be loaded.
    """
    overrides, argv = split_data_options(argv)
    parser = arguments.figures()
    options = parser.parse_args(argv)
    given = given_options(parser, argv, options)
    refuse_unused(given, {"ckpt_path": (options.run_dir, "--run_dir")})
    if (options.run_dir is None) == (options.config is None):
        raise InputError("pass either --run_dir of a run, or --config for figures of its data alone")
    run = open_run(options.run_dir, options.ckpt_path, trust=options.trust) if options.run_dir else None
    if options.rows * options.columns > MAX_IMAGES:
        raise InputError(
            f"--rows {options.rows} and --columns {options.columns} exceed {MAX_IMAGES} images per figure; reduce them"
        )
    options.output = options.output or (run.path if run else Path()) / "figures"
    trust = options.trust if run else options.trust or None
    with quiet():
        config = ExperimentConfig(run or options.config, overrides, trust=trust)
        written = _write(_select(options, given, config), options)
    if not written:
        raise InputError("no figure could be rendered, for the reasons above")
    return 0


def _write(figures: dict[str, Callable[[], Figure]], options: argparse.Namespace) -> int:
    """Write each figure and the captions; return how many figures were available."""
    folder = options.output
    written = 0
    for name, render in figures.items():
        try:
            figure = render()
        except FigureUnavailableError as error:
            print(f"{name}: skipped, {error}", flush=True)
            continue
        check_replaceable_result(folder / f"{figure.name}.png", "--output")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the directory {folder} cannot be created: {error.strerror}; pass another --output"
            ) from error
        print(write_figure(figure, options.size, folder), flush=True)
        _add_caption(folder / "captions.md", figure)
        written += 1
    return written


def _add_caption(path: Path, figure: Figure) -> None:
    """Add or replace the figure's line; those of figures are sorted by name, after the other lines of the file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text in UTF-8; move it, or pass another --output") from error
    start = f"- `{figure.name}.png`: "
    others = [line for line in lines if not _CAPTION.match(line)]
    captions = [line for line in lines if _CAPTION.match(line) and not line.startswith(start)]
    write_text(path, "\n".join([*others, *sorted([*captions, start + figure.caption])]) + "\n")


def _select(options: argparse.Namespace, given: set[str], config: ExperimentConfig) -> dict[str, Callable[[], Figure]]:
    """Return the requested figures by name. Errors that concern any of them are raised before the first is rendered."""
    figure_options = FigureOptions(
        rows=options.rows,
        columns=options.columns,
        numbers=None if options.numbers is None else tuple(options.numbers),
        views=config.reference_views,
        azimuth=options.azimuth,
        elevation=options.elevation,
        zoom=options.zoom,
        psis=options.psi,
        seed=options.sample_seed,
    )
    of_samples: dict[str, Callable[[], Figure]] = {}
    module: object = None
    source = "a config without a run"
    if options.run_dir and (options.only is None or set(options.only) - DATA_FIGURES.keys()):
        run = load_generator(options.run_dir, options.ckpt_path, trust=options.trust)
        module = run.module
        source = type(module).__name__
        of_samples = {
            name: partial(_render_samples, run, render, figure_options)
            for name, render in figures_of(run.module).items()
        }
        _check_viewpoint(run.module, given)
        run.module.sample_seed = options.sample_seed
        _set_truncation(run.module, options)
    names = [*of_samples, *DATA_FIGURES]
    if unknown := [name for name in options.only or () if name not in names]:
        raise InputError(f"no such figure: {unknown[0]!r}; {source} has {', '.join(names)}")
    selected = [name for name in names if options.only is None or name in options.only]
    figures = {name: of_samples[name] for name in selected if name in of_samples}
    if len(figures) == len(selected):
        _check_effects(given, set(selected), module)
        return figures
    try:
        data = config.load_data()
    except InputError as error:
        if options.only or not of_samples:
            raise
        raise InputError(f"{error}; --only {','.join(of_samples)} excludes the data") from error
    _check_effects(given, set(selected), module, isinstance(data, ShapeNetRenderDataModule))
    for name in selected:
        if name not in figures:
            figures[name] = partial(DATA_FIGURES[name], data, figure_options)
    return figures


def _render_samples(run: LoadedRun, render: FigureFunction, figure_options: FigureOptions) -> Figure:
    """Render a figure of a run's samples and add run, checkpoint and seed to its caption."""
    figure = render(run.module, figure_options)
    note = f"Run {run.name}, {run.checkpoint.name} at {run.module.kimg:g} kimg, sample seed {run.module.sample_seed}."
    return replace(figure, caption=f"{figure.caption} {note}")


def _check_effects(given: set[str], selected: set[str], module: object, shapes: bool = False) -> None:
    """Refuse options that change none of the selected figures.

    Args:
        given: Names of the given options.
        selected: Names of the figures.
        module: The model, or None for figures of data alone.
        shapes: Whether the data are shapes, not images.
    """
    heads = isinstance(module, MeshGANModule)
    samples = {"samples"} if heads else set()  # MeshGAN's have one sample per row and columns of their own
    by_number = {"views", "view_normals", "thresholds", "interpolation", "truncation", "layers"} | samples
    without_rows = by_number - {"interpolation"} if heads else by_number  # MeshGAN interpolates from row to row
    with_columns = selected - {"random", "thresholds", "truncation", "layers"} - samples
    with_views = selected - (set() if shapes else DATA_FIGURES.keys())
    of_meshgan = (selected - DATA_FIGURES.keys(), "MeshGAN's samples")
    refuse_unused(
        given,
        {
            "psi": (selected & {"truncation"}, "MeshGAN's figure truncation"),
            "numbers": (selected & by_number, "figures with one sample per row, which are not selected"),
            "rows": ("numbers" not in given or selected - without_rows, "figures without --numbers"),
            "columns": (with_columns, "grids and interpolations, which are not selected"),
            "azimuth": (with_views - {"views", "view_normals"}, "grids of voxels, which are not selected"),
            "elevation": (with_views, "voxels"),
            "zoom": (with_views, "voxels"),
            "sample_seed": (with_views, "samples, and views of shapes"),
            "truncation": of_meshgan,
            "truncation_cutoff": of_meshgan,
        },
    )


def _check_viewpoint(module: object, given: set[str]) -> None:
    """Refuse a viewpoint for models whose figures have fixed viewpoints, or none."""
    for name in ("azimuth", "elevation", "zoom"):
        if name in given and not isinstance(module, VoxelGenerativeModule):
            raise InputError(f"--{name} is for models of voxels; {type(module).__name__} has fixed viewpoints; omit it")


def _set_truncation(module: object, options: argparse.Namespace) -> None:
    """Override the run's truncation if options set it."""
    for name in ("truncation", "truncation_cutoff"):
        value = getattr(options, name)
        if value is None:
            continue
        if not hasattr(module, name):
            raise InputError(f"--{name} is for MeshGAN; {type(module).__name__} has no truncation; omit it")
        setattr(module, name, None if value == "none" else value)
