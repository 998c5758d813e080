"""Time of the parts of a MeshGAN training step, in seconds per 1,000 images: G, rasterizer, D, R1 and data.

    python -m benchmarks.meshgan [--size 32] [--steps 16] [--batch 16]

Trains on procedural heads with the ``fit`` command, at one size without growth: at 32² with the networks of heads.yaml on
the CPU; with CUDA also at 64² and 128² with the networks of the paper. A callback reads the clock between the parts of a
step; in the backward pass it uses hooks on the tensors between G, the rasterizer and D.

R1's second derivatives are part of D's backward pass. So every other step runs without R1, and the time of R1 is what D
takes longer in the steps with it. All other times are medians over the steps with R1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import lightning_modules.generative
from benchmarks.step import StepTimer
from benchmarks.training_runs import run_fit

PARTS = ("G", "rasterizer", "D", "R1", "data", "average, logging")
SKIP = 2  # number of first steps that are not counted


class MeshStepTimer(StepTimer):
    """Times the parts of each training step; several intervals of one part are added.

    Args:
        path: output JSON file with one object of seconds per step.
    """

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._device, self._penalty = module.device, lightning_modules.generative.gradient_penalty
        self._step: dict[str, float] = {}
        self.steps: list[dict[str, float]] = []
        self._wrap(module.generator, "forward", None, "G")
        self._wrap(module.discriminator, "forward", None, "D")
        self._wrap(module, "step_optimizer", None, lambda: next(self._phases))
        self._wrap(lightning_modules.generative, "gradient_penalty", None, "R1")
        render = module.render

        def timed(mesh: Any, camera: Any, background: torch.Tensor, **options: Any) -> Any:
            self._take("G")
            result = render(mesh, camera, background, **options)
            self._take("rasterizer")
            result.image.register_hook(lambda _: self._take("D"))
            for tensor in (mesh.vertices, mesh.texture, background):
                tensor.register_hook(lambda _: self._take("rasterizer"))
            return result

        object.__setattr__(module, "render", timed)

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._take("data")
        self._phases = iter(["D", "G"])

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._take("average, logging")
        self.steps.append(self._step)
        self._step = {}

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        lightning_modules.generative.gradient_penalty = self._penalty
        Path(self.path).write_text(json.dumps(self.steps))

    def _take(self, part: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._step[part] = self._step.get(part, 0.0) + now - self._mark
        self._mark = now


def split(steps: list[dict[str, float]]) -> dict[str, float]:
    """Return the seconds of each part of a step with R1, from steps with and without R1."""
    counted = steps[SKIP:]
    plain = statistics.median(step["D"] for step in counted if "R1" not in step)
    penalized = [step for step in counted if "R1" in step]
    parts = {name: statistics.median(step.get(name, 0.0) for step in penalized) for name in PARTS}
    both = statistics.median(step["D"] + step["R1"] for step in penalized)
    return parts | {"D": plain, "R1": both - plain}


def run(sizes: tuple[int, ...] = (), steps: int = 16, batch: int = 16) -> list[dict[str, Any]]:
    """Return one row per part of the step at each size, then the whole step."""
    rows = []
    for size in sizes or ((32, 64, 128) if torch.cuda.is_available() else (32,)):
        parts = split(train(size, steps, batch))
        whole = sum(parts.values())
        for part, seconds in (*parts.items(), ("whole step", whole)):
            per_thousand = seconds * 1000 / batch
            rows.append(
                {"benchmark": f"meshgan {size}²", "part": part, "s_per_1000": per_thousand, "share": seconds / whole}
            )
    return rows


def train(size: int, steps: int, batch: int) -> list[dict[str, float]]:
    """Return the seconds of each part in each step."""
    with tempfile.TemporaryDirectory() as cache:
        settings = settings_of(size, batch, cache)
        return run_fit("benchmarks.meshgan.MeshStepTimer", max(steps, SKIP + 2), settings)


def settings_of(size: int, batch: int, cache: str) -> dict[str, Any]:
    """Return the config of a training on procedural heads at one size, with R1 at every other step."""
    networks = "model/meshgan_32.yaml" if size <= 32 else "model/meshgan.yaml"
    model: dict[str, Any] = {
        "generator": {"init_args": {"image_size": size}},
        "discriminator": {"init_args": {"resolution": size}},
        "renderer": {"init_args": {"image_size": size}},
        "growth": [{"resolution": size, "fade_kimg": 0}],
        "r1_every": 2,
        "extractor": "renders_color",
    }
    data = {"image_size": size, "images": 4 * batch, "reference_images": 2, "batch_size": batch, "total_kimg": 1000}
    return {
        "seed_everything": 0,
        "model": {"base": networks, "init_args": model},
        "data": {"base": "data/heads.yaml", "init_args": {**data, "cache_dir": cache}},
        "trainer": {
            "base": "trainer/default.yaml",
            "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
            "devices": 1,
            "callbacks": [],
            "enable_progress_bar": False,
        },
    }


if __name__ == "__main__":
    from benchmarks.output import machine, show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    print(machine())
    show(run(tuple(arguments.size), arguments.steps, arguments.batch))
