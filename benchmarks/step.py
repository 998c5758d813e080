"""Time of the parts of an IG-GAN training step (G, D, R, OpenGL and data), and peak memory.

python -m benchmarks.step [--config demo.yaml] [--steps 30] [--compiled]

Trains with the ``fit`` command and a callback that reads the clock between the parts of a step. On a CPU it also compares
G and R with plain implementations, measured in turn: G with torch's layers, and lit absorption with the gradient marched
as a colour.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from benchmarks.training_runs import run_fit
from networks import VoxelGenerator
from renderers import ViewDistribution
from renderers.volume import numba_backend
from renderers.volume.reference import MarchSettings, Rays


class StepTimer(pl.Callback):
    """Times the parts of each training step by wrapping the functions that the step calls.

    Args:
        path: output JSON file for the mean seconds of each part.
        skip: number of first steps that are not counted.
    """

    def __init__(self, path: str, skip: int = 3) -> None:
        self.path, self.skip = path, skip
        self.seconds: dict[str, list[float]] = {}
        self._mark = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._device = module.device
        self._phases: Iterator[str] = iter(())
        self._wrap(module.renderer, "forward", "G forward", "OpenGL")
        if hasattr(module.neural_renderer, "rotate"):
            self._wrap(module.neural_renderer, "rotate", None, "R rotation")
        self._wrap(module.neural_renderer, "forward", None, "R forward")
        self._wrap(module, "step_optimizer", None, lambda: next(self._phases))

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._take("data")
        self._phases = iter(["D", "G through R", "R backward"])

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._take("average, logging")

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        steps = len(self.seconds["data"])
        parts = {part: sum(times[self.skip :]) / (steps - self.skip) for part, times in self.seconds.items()}
        Path(self.path).write_text(json.dumps(parts))

    def _take(self, part: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds.setdefault(part, []).append(now - self._mark)
        self._mark = now

    def _wrap(self, owner: Any, name: str, before: str | None, part: str | Callable[[], str]) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                self._take(before)
            result = inner(*args, **kwargs)
            self._take(part if isinstance(part, str) else part())
            return result

        object.__setattr__(owner, name, timed)


def run(config: str = "demo.yaml", steps: int = 30, compiled: bool = False) -> list[dict[str, Any]]:
    """Return one row per part of the step, then the whole step and the peak memory.

    Args:
        config: a config of IG-GAN.
        steps: training steps; the first three are not counted.
        compiled: compile the networks, as ``configs/speed/compiled.yaml`` does, in the first steps.
    """
    settings = {
        "trainer": {
            "callbacks": [{"class_path": "callbacks.CompileNetworks"}] if compiled else [],
            "enable_progress_bar": False,
        },
        "model": {"init_args": {"proxy_checkpoint": None}},
    }
    parts = run_fit("benchmarks.step.StepTimer", steps, settings, config)
    name = f"step {config}{', compiled' if compiled else ''}"
    rows = [{"benchmark": name, "part": part, "seconds": seconds} for part, seconds in parts.items()]
    rows.append({"benchmark": name, "part": "whole step", "seconds": sum(parts.values())})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append({"benchmark": name, "part": "peak memory of the process", "GiB": peak})
    if torch.cuda.is_available():
        gpu = torch.cuda.max_memory_allocated() / 2**30
        rows.append({"benchmark": name, "part": "peak memory of the GPU", "GiB": gpu})
        return rows
    return rows + compare_with_plain()


def compare_with_plain(voxels: int = 32, width: int = 128, batch: int = 8, repeats: int = 9) -> list[dict[str, Any]]:
    """Return rows for the forward and backward pass of G and of lit absorption, each beside a plain implementation.

    The methods alternate, so that other load slows them equally; "times_plain" is the median of the ratios.
    """
    generator = VoxelGenerator(voxels, width=width)
    plain_generator = copy.deepcopy(generator)
    for layer in plain_generator.layers:
        if isinstance(layer, nn.ConvTranspose3d):
            layer.__class__ = nn.ConvTranspose3d
    g = torch.Generator().manual_seed(0)
    z = torch.randn(batch, generator.latent_size, generator=g)
    noise = torch.rand(batch, 1, *[voxels // 4] * 3, generator=g)
    occupancy = nn.functional.interpolate(noise, scale_factor=4, mode="trilinear").mul(8).sub(4).sigmoid()
    camera = ViewDistribution().sample(batch, g)
    settings = MarchSettings(Rays.of(camera, 2 * voxels, 2 * voxels), "absorption", 1.0)

    def march(function: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat(function(occupancy.requires_grad_(), camera.rotation, settings), 1)

    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "G": (lambda: plain_generator(z), lambda: generator(z)),
        "R, lit absorption": (
            lambda: march(numba_backend.kernels.march_surface),
            lambda: march(numba_backend.march_surface),
        ),
    }
    rows = []
    for part, methods in pairs.items():
        times = [[_seconds(method) for method in methods] for _ in range(repeats + 2)][2:]
        plain, fast = (statistics.median(column) for column in zip(*times, strict=True))
        speed = statistics.median(t[0] / t[1] for t in times)
        row = {"benchmark": f"{voxels}³, batch {batch}", "part": f"{part}, forward and backward", "seconds": fast}
        rows.append({**row, "plain_seconds": plain, "times_plain": speed})
    return rows


def _seconds(method: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    method().square().sum().backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    from benchmarks.output import show

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="demo.yaml")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compiled", action="store_true", help="use torch.compile")
    arguments = parser.parse_args()
    show(run(arguments.config, arguments.steps, arguments.compiled))
