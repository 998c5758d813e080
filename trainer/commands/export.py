"""``export``: write samples of a run as 3D files and turntable videos, and report whether each mesh is watertight."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.cli import arguments
from trainer.export.samples import generate_samples
from trainer.export.unused_options import given_options, refuse_unused
from trainer.export.video import check_video_options, write_video
from trainer.runs.loading import LoadedRun, load_generator
from utils.files import check_replaceable, write_atomically
from utils.progress import Progress

FRAME = "y up, z toward the viewer, metres; voxels fill the cube [-1/2, 1/2]³"


def main(argv: list[str]) -> int:
    """Write the files and ``report.json``, and print the report; return the exit status.

    Raises:
        InputError: Invalid options, or a run that cannot be loaded or exported.
    """
    parser = arguments.export()
    options = parser.parse_args(argv)
    film = (options.turntable, "the video of --turntable")
    meshes = (
        set(options.formats) - {"binvox", "npz"},
        f"mesh files, and --formats {','.join(options.formats)} has none",
    )
    effects = {**dict.fromkeys(("frames", "film_size", "elevation"), film), "decimate": meshes}
    refuse_unused(given_options(parser, argv, options), effects)
    if options.turntable:
        check_video_options(options.turntable, options.film_size)
    run = load_generator(options.run_dir, options.ckpt_path, trust=options.trust)
    folder = options.output or run.folder.path / "export"
    _check_output(folder, options)
    report = _report(run, options)
    try:
        for shape in _write(run, options, folder):
            report["shapes"].append(shape)
    finally:  # what is written, also of a command that is stopped
        if report["shapes"]:
            _write_report(folder / "report.json", report)
    if options.json:
        print(json.dumps(report))
        return 0
    print(_format_table(report["shapes"]))
    closed = sum(shape["watertight"] for shape in report["shapes"])
    print(f"{closed} of {len(report['shapes'])} shapes are watertight. Frame: {FRAME}.")
    if options.decimate and closed < len(report["shapes"]):
        print(
            "Decimation may merge thin parts, which leaves edges of more than two faces or no volume; raise --decimate or "
            "omit it."
        )
    print(f"written to {folder}")
    return 0


def _check_output(folder: Path, options: argparse.Namespace) -> None:
    """Check that the outputs replace only those of earlier calls, which their report names."""
    report = folder / "report.json"
    check_replaceable(report, lambda path: bool(_read_reports(path)), "a report of export", "--output")
    earlier = {name for other in _read_reports(report) for shape in other["shapes"] for name in shape["files"]}
    listed: dict[str, str] = {}  # by output: the file of the report that it belongs to
    for stem in (f"{number:04d}" for number in options.seeds):
        listed |= {f"{stem}.{suffix}": f"{stem}.{suffix}" for suffix in (*options.formats, options.turntable) if suffix}
        if "obj" in options.formats:
            listed |= dict.fromkeys((f"{stem}.mtl", f"{stem}_material.png"), f"{stem}.obj")
    for name in listed:
        check_replaceable(folder / name, lambda path: listed[path.name] in earlier, "a file of export", "--output")


def _write(run: LoadedRun, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Write each sample; yield its report."""
    if options.sample_seed is not None:
        run.module.sample_seed = options.sample_seed
    samples = generate_samples(
        run.module,
        list(options.seeds),
        truncation=options.truncation,
        threshold=options.threshold,
        max_faces=options.decimate,
    )
    with Progress(total=len(options.seeds), desc="exporting", unit="shape") as bar:
        for sample in samples:
            stem = folder / f"{sample.number:04d}"
            files = sample.write(stem, options.formats)
            if options.turntable:
                files.append(stem.with_suffix(f".{options.turntable}"))
                write_video(files[-1], sample.turntable(options.frames, options.film_size, options.elevation))
            yield {**sample.report(), "files": [file.name for file in files]}
            bar.update()


def _report(run: LoadedRun, options: argparse.Namespace) -> dict[str, Any]:
    settings = {name: getattr(options, name) for name in ("truncation", "threshold", "decimate")}
    return {
        "run": str(run.folder),
        "checkpoint": str(run.checkpoint),
        "kimg": run.module.kimg,
        "sample_seed": run.module.sample_seed,
        **{name: getattr(run.module, name, None) if value is None else value for name, value in settings.items()},
        "frame": FRAME,
        "shapes": [],
    }


def _write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report. Its ``earlier`` are those of earlier calls, as far as their files remain."""
    replaced = {name for shape in report["shapes"] for name in shape["files"]}
    remaining = {file.name for file in path.parent.iterdir()} - replaced
    report["earlier"] = []
    for other in _read_reports(path):
        kept = [{**shape, "files": [name for name in shape["files"] if name in remaining]} for shape in other["shapes"]]
        if shapes := [shape for shape in kept if shape["files"]]:
            report["earlier"].append({**other, "shapes": shapes})
    write_atomically(path, lambda file: file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8") and None)


def _read_reports(path: Path) -> list[dict[str, Any]]:
    """Return the report of a file and its earlier ones, newest first; nothing if it has none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        reports = [report, *report.pop("earlier", [])]
        if all(isinstance(name, str) for other in reports for shape in other["shapes"] for name in shape["files"]):
            return reports
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return []


def _format_table(shapes: list[dict[str, Any]]) -> str:
    """Format the report as text, one line per shape."""
    heads = ("sample", "faces", "closed", "boundary edges", "crowded edges", "components", "area m²", "volume m³")
    rows = [
        (
            f"{s['sample']:04d}",
            f"{s['faces']:,}",
            "empty" if not s["faces"] else "yes" if s["watertight"] else "no",
            f"{s['boundary_edges']:,}",
            f"{s['crowded_edges']:,}",
            str(s["components"]),
            f"{s['area']:.4f}",
            "" if s["volume"] is None else f"{s['volume']:.5f}",
        )
        for s in shapes
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    )
