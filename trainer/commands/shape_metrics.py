"""``shapes``: compare a run's voxel shapes with held-out shapes; training shapes serve as the reference point."""

from __future__ import annotations

import json
from typing import Any

import torch
from jaxtyping import Bool, Float
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.shapes import ShapeSource
from lightning_modules.generative import VoxelGenerativeModule
from metrics import chamfer_matrix, compare_clouds, minimum_matching_distance, nearest_training_iou, surface_clouds
from trainer.cli import arguments
from trainer.cli.log_filters import quiet
from trainer.runs.loading import ExperimentConfig, LoadedRun, load_generator
from utils.errors import InputError
from utils.progress import Progress

BATCH = 16
ALIGNMENT_SHAPES = 32  # shapes used to find the front
METRICS = ("coverage", "mmd", "one_nn_accuracy", "nearest_training_iou")


def main(argv: list[str]) -> int:
    """Print coverage, minimum matching distance, 1-NN accuracy and the IoU with the nearest training shape.

    A generator trained on images from all azimuths has no preferred front. Its shapes are therefore rotated about the
    vertical axis by the multiple of 90 degrees, the same for all, that brings them closest to the held-out shapes.

    Raises:
        InputError: Invalid options, or a run or data that cannot be loaded or have no voxels.
    """
    overrides = [word for word in argv if word.startswith("--data.") and "=" in word]
    options = arguments.shapes().parse_args([word for word in argv if word not in overrides])
    with quiet():
        run = load_generator(options.run_dir, options.ckpt_path, device="cpu")
        if not isinstance(run.module, VoxelGenerativeModule):
            raise InputError(
                f"{run.folder.path} is a run of {type(run.module).__name__}, which does not generate voxels"
            )
        data = ExperimentConfig(run.folder.config, overrides).load_data()
        report = measure(run, *_sources(data, options.count), options.count, options.points)
    print(json.dumps(report) if options.json else _format(report))
    return 0


def _sources(data: LightningDataModule, count: int) -> tuple[ShapeSource, ShapeSource]:
    """Return the held-out and the training shapes."""
    held_out, training = getattr(data, "reference_shapes", None), getattr(data, "shapes", None)
    if held_out is None or training is None:
        raise InputError(f"{type(data).__name__} has images but no shapes to compare with")
    if count > len(held_out):
        raise InputError(f"--count {count} is more than the {len(held_out)} held-out shapes; reduce it")
    return held_out, training


def measure(run: LoadedRun, held_out: ShapeSource, training: ShapeSource, count: int, points: int) -> dict[str, Any]:
    """Compare ``count`` generated shapes and as many training shapes with as many held-out shapes.

    Args:
        run: A run of a voxel generator.
        held_out: Shapes that were not trained on.
        training: The training set.
        count: Shapes of each kind.
        points: Points sampled on each surface.

    Raises:
        InputError: The run's voxel resolution differs from the data's.
    """
    assert isinstance(run.module, VoxelGenerativeModule)
    truth, known = _solids(held_out, count, "held-out shapes"), _solids(training, len(training), "training shapes")
    generated = _generate(run.module, count)
    if generated.shape[1:] != truth.shape[1:]:
        raise InputError(f"the run generates {generated.shape[-1]}³ voxels and the data contain {truth.shape[-1]}³")
    nonempty = generated[generated.flatten(1).any(1)]
    reference = surface_clouds(truth, points)
    baseline = _spread(known, count)
    report: dict[str, Any] = {
        "generated": count,
        "empty": count - len(nonempty),
        "points": points,
        "checkpoint": str(run.checkpoint),
        "training": compare_clouds(surface_clouds(baseline, points, seed=1), reference)
        | {"nearest_training_iou": float(nearest_training_iou(truth, known)[0].mean())},
    }
    if len(nonempty):
        quarter = _front(nonempty, reference)
        solids = nonempty.rot90(quarter, (1, 3))
        figures = compare_clouds(surface_clouds(solids, points), reference)
        iou = float(nearest_training_iou(solids, known)[0].mean())
        report |= {"run": figures | {"nearest_training_iou": iou}, "turned_degrees": 90 * quarter}
    return report


def _front(solids: Bool[Tensor, "N D D D"], reference: Float[Tensor, "R P 3"]) -> int:
    """Return the number of quarter turns about the vertical axis that brings the shapes closest to the reference."""
    part, sparse = _spread(solids, ALIGNMENT_SHAPES), reference[:, ::8]

    def distance(quarter: int) -> float:
        clouds = surface_clouds(part.rot90(quarter, (1, 3)), sparse.shape[1])
        return minimum_matching_distance(chamfer_matrix(clouds, sparse))

    return min(range(4), key=distance)


def _solids(source: ShapeSource, count: int, name: str) -> Bool[Tensor, "N D D D"]:
    solids = []
    with Progress(count, f"reading {name}", "shape") as bar:
        for i in range(count):
            solids.append(source[i].voxels.occupancy[0, 0] > 0.5)
            bar.update(1)
    return torch.stack(solids)


def _spread(solids: Bool[Tensor, "N D D D"], count: int) -> Bool[Tensor, "n D D D"]:
    """Select at most ``count`` shapes, evenly spaced over the set."""
    return solids[torch.linspace(0, len(solids) - 1, min(count, len(solids))).round().long()]


def _generate(module: VoxelGenerativeModule, count: int) -> Bool[Tensor, "N D D D"]:
    numbers = torch.arange(count).split(BATCH)
    shapes = [module.shapes(module.sample_latents(part)).binarize(module.threshold).occupancy[:, 0] for part in numbers]
    return torch.cat(shapes) > 0.5


def _format(report: dict[str, Any]) -> str:
    run, training = report.get("run"), report["training"]
    lines = [f"{'':20} {'run':>10} {'training':>10}"]
    for name in METRICS:
        value = f"{run[name]:10.4f}" if run else f"{'none':>10}"
        lines.append(f"{name:20} {value} {training[name]:10.4f}")
    turned = f", rotated by {report['turned_degrees']}°" if run else ""
    lines.append(
        f"run: {report['generated']} generated shapes ({report['empty']} empty ones excluded{turned}) against as many "
        f"held-out shapes, {report['points']} points per surface; training: as many training shapes against the same "
        "held-out shapes, and the IoU of the held-out shapes with the nearest training shape"
    )
    return "\n".join(lines)
