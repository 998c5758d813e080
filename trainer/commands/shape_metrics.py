"""``shapes``: compare a run's voxel shapes with held-out shapes; training shapes serve as the reference point."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.shapes import ShapeSource
from lightning_modules.voxel_generative import COMPARED_SHAPES, VoxelGenerativeModule
from metrics import ShapeReference, compare_clouds, compare_shapes, nearest_training_iou, surface_clouds
from metrics.shape_comparison import POINTS, SHAPE_METRICS, evenly_spaced
from trainer.cli import arguments
from trainer.cli.argument_types import split_data_options
from trainer.cli.log_filters import quiet
from trainer.runs.loading import ExperimentConfig, LoadedRun, load_generator
from utils.errors import InputError

BATCH = 16


def main(argv: list[str]) -> int:
    """Print the metrics of :func:`metrics.compare_shapes`, which evaluations measure in small, for a run.

    Raises:
        InputError: Invalid options, or a run or data that cannot be loaded or have no voxels.
    """
    overrides, argv = split_data_options(argv)
    options = arguments.shapes().parse_args(argv)
    with quiet():
        run = load_generator(options.run_dir, options.ckpt_path, device="cpu", trust=options.trust)
        if not isinstance(run.module, VoxelGenerativeModule):
            raise InputError(f"{run.folder} is a run of {type(run.module).__name__}, which does not generate voxels")
        data = ExperimentConfig(run.folder, overrides, trust=options.trust).load_data()
        report = measure(run, *_sources(data), options.count, options.points)
    print(json.dumps(report) if options.json else _format(report))
    return 0


def _sources(data: LightningDataModule) -> tuple[ShapeSource, ShapeSource]:
    """Return the held-out and the training shapes."""
    held_out, training = getattr(data, "reference_shapes", None), getattr(data, "shapes", None)
    if held_out is None or training is None:
        raise InputError(f"{type(data).__name__} has images but no shapes to compare with")
    return held_out, training


def measure(
    run: LoadedRun, held_out: ShapeSource, training: ShapeSource, count: int | None = None, points: int = POINTS
) -> dict[str, Any]:
    """Compare ``count`` generated shapes, and as many training shapes if there are, with as many held-out shapes.

    Args:
        run: A run of a voxel generator.
        held_out: Shapes that were not trained on.
        training: The training set.
        count: Shapes of each kind; fewer if some of the held-out shapes are empty. None for 100, or all held-out shapes
            if they are fewer.
        points: Points sampled on each surface.

    Raises:
        InputError: There are fewer held-out shapes, or the run's voxel resolution differs from the data's.
    """
    assert isinstance(run.module, VoxelGenerativeModule)
    if count is None:
        count = min(COMPARED_SHAPES, len(held_out))
    if count > len(held_out):
        raise InputError(f"--count {count} is more than the {len(held_out)} held-out shapes; reduce it")
    reference = ShapeReference.measure(held_out, training, count, points, cache_dir=run.module.fid.cache_dir)
    count = len(reference.clouds)
    generated = _generate(run.module, count)
    if generated.shape[-1] != reference.training.size:
        raise InputError(
            f"the run generates {generated.shape[-1]}³ voxels and the data contain {reference.training.size}³"
        )
    baseline = evenly_spaced(reference.training, count)
    solids = (held_out[i].voxels.occupancy[0, 0] > 0.5 for i in range(len(held_out)))
    truth = torch.stack(list(islice(filter(Tensor.any, solids), count)))
    # Where the paper's setting trains on all models, training shapes are among the held-out ones.
    rotated, _ = compare_shapes(baseline, reference, per_shape=True, seed=1)
    rotated["nearest_iou"] = float(nearest_training_iou(truth, reference.training)[0].mean())
    clouds = surface_clouds(baseline, points, seed=1)
    report: dict[str, Any] = {
        "generated": count,
        "empty": int((~generated.flatten(1).any(1)).sum()),
        "training_shapes": len(baseline),
        "points": points,
        "checkpoint": str(run.checkpoint),
        "training": rotated | compare_clouds(clouds, reference.clouds, reference.distances),
        "training_rotated": rotated,
    }
    if report["empty"] < count:
        figures, quarters = compare_shapes(generated, reference)
        report |= {"run": figures, "rotated_degrees": 90 * int(quarters[0])}
        figures, quarters = compare_shapes(generated, reference, per_shape=True)
        report |= {"run_rotated": figures, "rotations": {90 * k: int((quarters == k).sum()) for k in range(4)}}
    return report


def _generate(module: VoxelGenerativeModule, count: int) -> Bool[Tensor, "N D D D"]:
    numbers = torch.arange(count).split(BATCH)
    shapes = [module.shapes(module.sample_latents(part)).binarize(module.threshold).occupancy[:, 0] for part in numbers]
    return torch.cat(shapes) > 0.5


def _format(report: dict[str, Any]) -> str:
    columns = [report.get(name) for name in ("run", "training", "run_rotated", "training_rotated")]
    lines = [f"{'':38} each shape rotated", f"{'':17} {'run':>10} {'training':>10} {'run':>10} {'training':>10}"]
    for name in SHAPE_METRICS:
        values = [f"{column[name]:10.4f}" if column else f"{'none':>10}" for column in columns]
        lines.append(f"{name:17} " + " ".join(values))
    lines.append(
        f"run: {report['generated']} generated shapes ({report['empty']} empty ones excluded) against as many held-out "
        f"shapes, {report['points']} points per surface; training: {report['training_shapes']} training shapes against the "
        "same held-out shapes, and the IoU of the held-out shapes with the nearest training shape"
    )
    if "run" in report:
        counts = ", ".join(f"{count} by {degrees}°" for degrees, count in report["rotations"].items())
        lines.append(
            f"rotation about the vertical axis: all generated shapes by {report['rotated_degrees']}°; or each shape by the "
            f"multiple of 90° that brings it nearest to a held-out shape: {counts}"
        )
    return "\n".join(lines)
