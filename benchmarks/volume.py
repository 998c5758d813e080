"""Compare the volume renderers with a plain implementation: grid_sample into a 128³ lattice, then a reduction over depth.

    python -m benchmarks.volume [--voxels 64] [--batch 16] [--json figures.json]

Times are milliseconds per image of 2 D pixels per side, forward and backward, on one CPU core, and on the GPU if there is
one. Each repeat measures all methods in turn, so that other load slows them equally; "times_plain" is the median of the
ratios. Emission-absorption and lit absorption have their own plain implementations, which also resample the colours or the
gradient. Lit absorption is also measured with the gradient marched as a colour. Memory is the increase of a
process's peak memory, measured in one process per method (on a GPU, the allocated memory).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    LitAbsorptionRenderer,
    ViewDistribution,
    VisualHullRenderer,
    VoxelGrid,
)
from renderers.backend_dispatch import choose_backend
from renderers.grid_sampling import resample_reference
from renderers.volume.reference import MarchSettings, Rays
from renderers.volume.renderer import BACKENDS

PLAIN = {
    "absorption": "plain absorption",
    "visual hull": "plain absorption",
    "emission-absorption": "plain emission-absorption",
    "lit absorption, gradient as a colour": "plain lit absorption",
    "lit absorption": "plain lit absorption",
}
METHODS = (*dict.fromkeys(PLAIN.values()), *PLAIN)


def run(voxels: int = 64, batch: int = 16, repeats: int = 7) -> list[dict[str, Any]]:
    """Return one row per method and device."""
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        times = measure_in_subprocess("times", voxels, batch, repeats, device)
        memory = {method: measure_in_subprocess(method, voxels, batch, 1, device) for method in METHODS}
        for method in METHODS:
            forward, backward = (statistics.median(t[i] for t in times[method]) for i in (0, 1))
            plain = PLAIN.get(method, method)
            ratios = [sum(p) / sum(t) for p, t in zip(times[plain], times[method], strict=True)]
            rows.append(
                {
                    "way": method,
                    "device": device,
                    "forward_ms": 1e3 * forward / batch,
                    "backward_ms": 1e3 * backward / batch,
                    "times_plain": statistics.median(ratios),
                    "MiB": memory[method],
                    "memory_of_plain": memory[method] / memory[plain],
                }
            )
    return rows


def measure_in_subprocess(mode: str, voxels: int, batch: int, repeats: int, device: str) -> Any:
    """Run :func:`measure` in a separate process."""
    code = f"from benchmarks.volume import measure; measure({mode!r}, {voxels}, {batch}, {repeats}, {device!r})"
    output = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure(mode: str, voxels: int, batch: int, repeats: int, device: str) -> None:
    """Print, as JSON, the times of all methods in turn, or the memory of one in MiB."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    occupancy = (torch.rand(batch, 1, *[voxels] * 3, generator=generator) ** 4).to(device).requires_grad_()
    color = torch.rand(batch, 3, *[voxels] * 3, generator=generator).to(device).requires_grad_()
    methods = make_methods(occupancy, color, ViewDistribution().sample(batch, generator).to(device))
    if mode == "times":
        for method in methods.values():
            timed(method, device)  # compile
        rounds = [{name: timed(method, device) for name, method in methods.items()} for _ in range(repeats)]
        print(json.dumps({name: [r[name] for r in rounds] for name in methods}))
        return
    small = make_methods(occupancy[:1, :, :8, :8, :8], color[:1, :, :8, :8, :8], Camera.orbit(0.0, 0.0, device=device))
    timed(small[mode], device)  # exclude compiled code and thread pools
    timed(small["plain emission-absorption"], device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(methods[mode], device)
        print(json.dumps((torch.cuda.max_memory_allocated() - before) / 2**20))
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timed(methods[mode], device)
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10))


def make_methods(occupancy: Tensor, color: Tensor, camera: Camera) -> dict[str, Callable[[], Tensor]]:
    size, grid = 2 * occupancy.shape[-1], VoxelGrid(occupancy)

    def plain_emission() -> Tensor:
        v, c = resample_reference(occupancy, camera, size), resample_reference(color, camera, size)
        before = (1 - v).clamp(min=1e-5).log().cumsum(2).exp()  # PlatonicGAN's, including the sample's own absorption
        return (v * c * before).sum(2)

    def gradient_as_color() -> Tensor:
        settings = MarchSettings(Rays.of(camera, size, size), "absorption", 1.0)
        kernels = choose_backend("auto", BACKENDS, occupancy).kernels
        return torch.cat(kernels.march_surface(occupancy, camera.rotation.to(occupancy), settings), 1)

    return {
        "plain absorption": lambda: (
            1 - (1 - resample_reference(occupancy, camera, size)).clamp(min=1e-5).log().sum(2).exp()
        ),
        "plain emission-absorption": plain_emission,
        "plain lit absorption": lambda: LitAbsorptionRenderer(size, backend="torch")(grid, camera).image,
        "absorption": lambda: AbsorptionRenderer(size)(grid, camera).image,
        "visual hull": lambda: VisualHullRenderer(size)(grid, camera).image,
        "emission-absorption": lambda: EmissionAbsorptionRenderer(size)(VoxelGrid(occupancy, color), camera).image,
        "lit absorption, gradient as a colour": gradient_as_color,
        "lit absorption": lambda: LitAbsorptionRenderer(size)(grid, camera).image,
    }


def timed(method: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Return the seconds of the forward and of the backward pass."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    image = method()
    middle = now()
    image.sum().backward()
    return middle - start, now() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    rows = run(arguments.voxels, arguments.batch)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    from benchmarks.output import show

    show(rows)


if __name__ == "__main__":
    main()
