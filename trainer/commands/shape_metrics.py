"""``shapes``: how near a run's voxel shapes come to real ones, beside shapes of the training set as the yardstick."""

from __future__ import annotations

import json

import torch
from jaxtyping import Bool, Float
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.shapes import ShapeSource
from lightning_modules.generative import VoxelGenerativeModule
from metrics import chamfer_matrix, compare_clouds, minimum_matching_distance, nearest_training_iou, surface_clouds
from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.cli.log_filters import quiet
from trainer.runs.data_loading import DataOf
from trainer.runs.loading import LoadedRun, load_generator
from utils.errors import InputError
from utils.progress import Progress

BATCH = 16
TURNED = 32  # shapes that are turned to find the front
FIGURES = ("coverage", "mmd", "one_nn_accuracy", "nearest_training_iou")


def main(argv: list[str]) -> int:
    """Print coverage, minimum matching distance, 1-NN accuracy and the IoU with the nearest training shape.

    A generator that saw images from all around knows no front: its shapes are measured in the one of four quarter turns
    about the vertical, the same for all, that brings them nearest to the held-out shapes.

    Raises:
        InputError: options, a run or data that cannot be used.
    """
    overrides = [word for word in argv if word.startswith("--data.") and "=" in word]
    options = parse(arguments.shapes(), [word for word in argv if word not in overrides])
    if options is None:
        return 0
    with quiet():
        run = load_generator(options.run_dir, options.ckpt_path, device="cpu")
        if not isinstance(run.module, VoxelGenerativeModule):
            raise InputError(f"{run.folder.path} is a run of {type(run.module).__name__}, which makes no voxels")
        held_out, training = _sources(DataOf(run.folder.config, overrides).load(), options.count)
        report = measure(run, held_out, training, options.count, options.points)
    print(json.dumps(report) if options.json else _sentences(report))
    return 0


def _sources(data: LightningDataModule, count: int) -> tuple[ShapeSource, ShapeSource]:
    if not hasattr(data, "reference_shapes"):
        raise InputError(f"{type(data).__name__} has images and no shapes to compare with")
    if count > len(data.reference_shapes):
        raise InputError(f"--count {count}: there are {len(data.reference_shapes)} held-out shapes")
    return data.reference_shapes, data.shapes


def measure(run: LoadedRun, held_out: ShapeSource, training: ShapeSource, count: int, points: int) -> dict[str, object]:
    """The figures of ``count`` generated shapes and of as many training shapes, against as many held-out ones."""
    truth, known = _solids(held_out, count, "held-out shapes"), _solids(training, len(training), "training shapes")
    made = _generated(run.module, count)
    if made.shape[1:] != truth.shape[1:]:
        raise InputError(f"the run makes {made.shape[-1]}³ voxels and the data hold {truth.shape[-1]}³")
    whole = made[made.flatten(1).any(1)]
    reference = surface_clouds(truth, points)
    yardstick = _spread(known, count)
    report: dict[str, object] = {
        "generated": count,
        "empty": count - len(whole),
        "points": points,
        "checkpoint": str(run.checkpoint),
        "training": compare_clouds(surface_clouds(yardstick, points, seed=1), reference)
        | {"nearest_training_iou": float(nearest_training_iou(truth, known)[0].mean())},
    }
    if len(whole):
        quarter = _front(whole, reference)
        solids = whole.rot90(quarter, (1, 3))
        figures = compare_clouds(surface_clouds(solids, points), reference)
        near = float(nearest_training_iou(solids, known)[0].mean())
        report |= {"run": figures | {"nearest_training_iou": near}, "turned_degrees": 90 * quarter}
    return report


def _front(solids: Bool[Tensor, "N D D D"], reference: Float[Tensor, "R P 3"]) -> int:
    """The quarter turns about the vertical after which some of the solids lie nearest to the reference."""
    part, sparse = _spread(solids, TURNED), reference[:, ::8]

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
    """``count`` of them, evenly spread over the set."""
    return solids[torch.linspace(0, len(solids) - 1, min(count, len(solids))).round().long()]


def _generated(module: VoxelGenerativeModule, count: int) -> Bool[Tensor, "N D D D"]:
    numbers = torch.arange(count).split(BATCH)
    shapes = [module.shapes(module.sample_latents(part)).binarize(module.threshold).occupancy[:, 0] for part in numbers]
    return torch.cat(shapes) > 0.5


def _sentences(report: dict[str, object]) -> str:
    lines = [f"{'':20} {'run':>10} {'training':>10}"]
    run = report.get("run")
    for name in FIGURES:
        made = f"{run[name]:10.4f}" if isinstance(run, dict) else f"{'none':>10}"
        lines.append(f"{name:20} {made} {report['training'][name]:10.4f}")  # type: ignore[index]
    turned = f", turned by {report['turned_degrees']}°" if run else ""
    lines.append(
        f"{report['generated']} generated shapes ({report['empty']} empty, left out{turned}) against as many held-out ones, "
        f"{report['points']} points a surface; 'training': as many training shapes against the same, and the held-out "
        "ones' IoU with the nearest training shape"
    )
    return "\n".join(lines)
