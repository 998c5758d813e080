"""``invert``: find the shape and the viewpoint that explain an image, with a trained generator."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from renderers import Camera, Renderer
from trainer.cli import arguments
from trainer.cli.argument_types import split_data_options
from trainer.cli.log_filters import quiet
from trainer.export.video import check_video_options
from trainer.inversion.models import InvertibleGenerator, invertible
from trainer.inversion.optimization import optimize
from trainer.inversion.results import FILM_SIZE, read_record, write_result
from trainer.inversion.starts import StartBank, nearest_latents
from trainer.inversion.targets import Item, read_items, stack
from trainer.inversion.truth import INVERSION_METRICS, Truth, held_out_truth
from trainer.runs.loading import ExperimentConfig, LoadedRun, load_generator
from utils.errors import InputError
from utils.files import cache_key, check_replaceable, create_directory, write_atomically
from utils.progress import Progress
from visualization.images import check_replaceable_result

VERSION = 2  # increase when a change alters the results of the same inputs
SUMMARY = ("mean", "median")


def main(argv: list[str]) -> int:
    """Invert images, write the files of each and a table of all; return the exit status.

    Raises:
        InputError: Invalid options, images that cannot be used, or a run that cannot be loaded or inverted.
    """
    overrides, argv = split_data_options(argv)
    options = arguments.invert().parse_args(argv)
    if (options.images is None) == (options.held_out is None):
        raise InputError("pass either --images or --held_out")
    if options.held_out is not None and (options.masks or options.views or options.fill):
        raise InputError("--masks, --views and --fill are for --images; omit them with --held_out")
    if options.held_out is None and options.known_views:
        raise InputError("--known_views is for --held_out; pass the viewpoints of --images by --views")
    if options.held_out is None and overrides:
        raise InputError(f"{overrides[0].partition('=')[0]} is for --held_out; omit it with --images")
    film = None if options.film == "none" else options.film
    if film is not None:
        check_video_options(film, FILM_SIZE)
    with quiet():
        run = load_generator(options.run_dir, options.ckpt_path, trust=options.trust)
        model = invertible(run.module, options.renderer)
    folder = options.output or run.folder.path / "inversions"
    _check_output(folder, options)
    truth: Truth | None = None
    if options.held_out is not None:
        with quiet():
            data = ExperimentConfig(run.folder, overrides, trust=options.trust).load_data()
        truth = held_out_truth(model, run.module, data, options.held_out)
        items = truth.items
    else:
        items = read_items(
            options.images,
            model.image_size,
            model.channels,
            masks=options.masks,
            views=options.views,
            fill=options.fill,
            on_corrupt=options.on_corrupt,
        )
    _check_stems(items)
    for item in items:
        for suffix in ("png", "glb", "json", *([film] if film else [])):
            check_replaceable_result(folder / f"{item.stem}.{suffix}", "--output")
    create_directory(folder)  # before the work, which would be lost
    records = _invert(run, model, items, options, folder, film)
    rows = [{name: record[name] for name in ("name", "azimuth", "elevation", "error", "empty")} for record in records]
    report = _report(run, options, records)
    if truth is not None:
        figures, report["truth"] = _measure(model, truth, records)
        for i, row in enumerate(rows):
            row |= {name: float(values[i]) for name, values in figures.items()}
    report["images"] = rows
    _write_table(folder, rows, report)
    print(json.dumps(report) if options.json else _format(report, truth))
    if not options.json:
        print(f"written to {folder}")
    return 0


def _check_output(folder: Path, options: argparse.Namespace) -> None:
    """Check that the outputs replace neither inputs nor a report of another command."""
    for name in ("images", "masks"):
        path = getattr(options, name)
        if path is not None and (path if path.is_dir() else path.parent).resolve() == folder.resolve():
            raise InputError(
                f"--{name} {path} is in {folder}, where its files could be replaced; pass another --output"
            )
    check_replaceable(folder / "report.json", _is_report, "a report of invert", "--output")


def _is_report(path: Path) -> bool:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(report, dict) and {"images", "starts"} <= report.keys()


def _check_stems(items: list[Item]) -> None:
    """Check that no two images have the same outputs."""
    seen: dict[str, str] = {}
    for item in items:
        if item.stem.lower() == "report":
            raise InputError(f"{item.name} has the output report.json, which is that of all images; rename it")
        if (other := seen.setdefault(item.stem, item.name)) != item.name:
            raise InputError(f"{other} and {item.name} have the same output {item.stem}; rename one of them")


def _invert(
    run: LoadedRun,
    model: InvertibleGenerator,
    items: list[Item],
    options: argparse.Namespace,
    folder: Path,
    film: str | None,
) -> list[dict[str, Any]]:
    """Invert the images that have no record yet, in batches; return the records of all."""
    known_view = bool(options.views or options.known_views)
    settings = (
        VERSION,
        hashlib.sha256(run.checkpoint.read_bytes()).hexdigest(),
        getattr(model, "choice", None),
        (options.steps, options.starts, options.samples, known_view, film),
    )
    keys = [cache_key(settings, item.key()) for item in items]
    records = [read_record(folder, item, key) for item, key in zip(items, keys, strict=True)]
    missing = [i for i, record in enumerate(records) if record is None]
    if not missing:
        return [record for record in records if record is not None]
    device = run.module.device
    bank = None if known_view else StartBank.generate(model, options.samples, options.starts)
    latents = model.sample(options.samples, torch.Generator().manual_seed(0)) if bank is None else bank.latent
    done = (len(items) - len(missing)) * options.steps
    try:
        with Progress(len(items) * options.steps, "inverting", "step", initial=done) as bar:
            for first in range(0, len(missing), options.batch):
                numbers = missing[first : first + options.batch]
                batch = [items[i] for i in numbers]
                targets = stack(batch).to(device)
                if bank is None:
                    camera = _cameras([item.view for item in batch], model, device)
                    starts = nearest_latents(model, latents, targets, camera, options.starts)
                else:
                    starts = bank.nearest(targets)
                winners, errors, trajectories = optimize(
                    model,
                    targets,
                    starts,
                    options.steps,
                    fixed_view=known_view,
                    observe=partial(bar.update, len(numbers)),
                )
                for j, i in enumerate(numbers):
                    part = slice(j, j + 1)
                    records[i] = write_result(
                        folder,
                        items[i],
                        model,
                        winners[part],
                        float(errors[j]),
                        trajectories[part],
                        key=keys[i],
                        renderer=cast(Renderer, run.module.renderer),
                        film=film,
                    )
    except KeyboardInterrupt:
        print(f"stopped; what is finished is in {folder}. The same command continues.", file=sys.stderr)
        raise
    return [record for record in records if record is not None]


def _cameras(views: list[tuple[float, float] | None], model: InvertibleGenerator, device: torch.device) -> Camera:
    angles = torch.tensor([view for view in views if view is not None], device=device)
    return Camera(angles[:, 0], angles[:, 1], model.views.fov)


def _measure(
    model: InvertibleGenerator, truth: Truth, records: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the figures of each image, and their summary beside those of the yardsticks."""
    latent = torch.tensor([record["latent"] for record in records])
    angles = [torch.tensor([record[name] for record in records]) for name in ("azimuth", "elevation")]
    figures = truth.measure(model.solids(latent), Camera(angles[0], angles[1], model.views.fov))
    within = float((figures["view_error"] < 30).float().mean())
    report: dict[str, Any] = {
        "kind": truth.kind,
        "turned_degrees": 90 * truth.quarter,
        "views_within_30_degrees": within,
    }
    report["figures"] = {"inversion": _summarize(figures)}
    report["figures"] |= {name: _summarize(values) for name, values in truth.yardsticks().items()}
    return figures, report


def _summarize(figures: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return mean and median of each figure over the shapes that are not empty."""
    return {
        name: dict(zip(SUMMARY, (float(values.nanmean()), float(values.nanmedian())), strict=True))
        for name, values in figures.items()
    }


def _report(run: LoadedRun, options: argparse.Namespace, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": str(run.folder.path),
        "checkpoint": str(run.checkpoint),
        "kimg": run.module.kimg,
        **{name: getattr(options, name) for name in ("steps", "starts", "samples")},
        "count": len(records),
        "empty": sum(record["empty"] for record in records),
        "error": float(torch.tensor([record["error"] for record in records]).mean()),
    }


def _write_table(folder: Path, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """Write ``table.csv`` with a row for each image, and ``report.json``. File names that are not UTF-8 are escaped."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for name, content in (("table.csv", text.getvalue()), ("report.json", json.dumps(report, indent=1) + "\n")):
        data = content.encode("utf-8", "backslashreplace")
        write_atomically(folder / name, lambda file, data=data: file.write_bytes(data))  # type: ignore[misc]


def _format(report: dict[str, Any], truth: Truth | None) -> str:
    lines = [f"{'image':24} {'azimuth':>8} {'elevation':>9} {'error':>7}"]
    shown = report["images"][:20]
    lines += [f"{r['name'][-24:]:24} {r['azimuth']:8.1f} {r['elevation']:9.1f} {r['error']:7.3f}" for r in shown]
    if len(report["images"]) > len(shown):
        lines.append(f"and {len(report['images']) - len(shown):,} more in table.csv")
    if truth is not None:
        lines += ["", f"{'mean':24} " + " ".join(f"{name:>14}" for name in INVERSION_METRICS) + f" {'median view':>14}"]
        for name, figures in report["truth"]["figures"].items():
            cells = [f"{figures[figure]['mean']:14.4f}" for figure in INVERSION_METRICS]
            lines.append(f"{name:24} " + " ".join(cells) + f" {figures['view_error']['median']:14.4f}")
        turned = report["truth"]["turned_degrees"]
        note = f"; inverted shapes and viewpoints rotated by {turned}° as a set" if turned else ""
        lines.append(
            f"{report['count']} held-out images, {report['empty']} empty shapes left out of chamfer{note}; "
            f"{report['truth']['views_within_30_degrees']:.0%} of the viewpoints are within 30° of the true ones"
        )
    return "\n".join(lines)
