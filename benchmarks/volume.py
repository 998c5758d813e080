"""The volume renderers beside the plain way: rotate into a 128³ lattice with grid_sample, then reduce along depth.

    python -m benchmarks.volume [--voxels 64] [--batch 16] [--json figures.json]

Milliseconds an image of 2 D pixels, forward and backward, on one CPU core (and on the GPU, where there is one). Each
repeat measures both in turn, so that a busy machine slows both alike; "times plain" is the median of the ratios.
Emission-absorption has a plain way of its own, which rotates the colours too. Memory is what a process that does nothing
else holds at its peak beyond what it held before, a process each (on a GPU: what was allocated).
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
    ViewDistribution,
    VisualHullRenderer,
    VoxelGrid,
)
from renderers.grid_sampling import resample_reference

PLAIN = {
    "absorption": "plain absorption",
    "visual hull": "plain absorption",
    "emission-absorption": "plain emission-absorption",
}
WAYS = (*dict.fromkeys(PLAIN.values()), *PLAIN)


def run(voxels: int = 64, batch: int = 16, repeats: int = 7) -> list[dict[str, Any]]:
    """One row a renderer and device."""
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        times = child("times", voxels, batch, repeats, device)
        memory = {way: child(way, voxels, batch, 1, device) for way in WAYS}
        for way in WAYS:
            forward, backward = (statistics.median(t[i] for t in times[way]) for i in (0, 1))
            plain = PLAIN.get(way, way)
            ratios = [sum(p) / sum(t) for p, t in zip(times[plain], times[way], strict=True)]
            rows.append(
                {
                    "way": way,
                    "device": device,
                    "forward_ms": 1e3 * forward / batch,
                    "backward_ms": 1e3 * backward / batch,
                    "times_plain": statistics.median(ratios),
                    "MiB": memory[way],
                    "memory_of_plain": memory[way] / memory[plain],
                }
            )
    return rows


def child(mode: str, voxels: int, batch: int, repeats: int, device: str) -> Any:
    """Measure in a process of its own."""
    code = f"from benchmarks.volume import measure; measure({mode!r}, {voxels}, {batch}, {repeats}, {device!r})"
    output = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1]
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure(mode: str, voxels: int, batch: int, repeats: int, device: str) -> None:
    """Print, as JSON, the times of all ways in turn or the memory of one, in MiB."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    occupancy = (torch.rand(batch, 1, *[voxels] * 3, generator=generator) ** 4).to(device).requires_grad_()
    color = torch.rand(batch, 3, *[voxels] * 3, generator=generator).to(device).requires_grad_()
    ways = make_ways(occupancy, color, ViewDistribution().sample(batch, generator).to(device))
    if mode == "times":
        for way in ways.values():
            timed(way, device)  # compiles
        rounds = [{name: timed(way, device) for name, way in ways.items()} for _ in range(repeats)]
        print(json.dumps({name: [r[name] for r in rounds] for name in ways}))
        return
    small = make_ways(occupancy[:1, :, :8, :8, :8], color[:1, :, :8, :8, :8], Camera.orbit(0.0, 0.0, device=device))
    timed(small[mode], device)  # compiled code and thread pools are not what is measured
    timed(small["plain emission-absorption"], device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed(ways[mode], device)
        print(json.dumps((torch.cuda.max_memory_allocated() - before) / 2**20))
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timed(ways[mode], device)
    print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10))


def make_ways(occupancy: Tensor, color: Tensor, camera: Camera) -> dict[str, Callable[[], Tensor]]:
    size, grid = 2 * occupancy.shape[-1], VoxelGrid(occupancy)

    def plain_emission() -> Tensor:
        v, c = resample_reference(occupancy, camera, size), resample_reference(color, camera, size)
        before = (1 - v).clamp(min=1e-5).log().cumsum(2).exp()  # PlatonicGAN's, the sample's own absorption included
        return (v * c * before).sum(2)

    return {
        "plain absorption": lambda: (
            1 - (1 - resample_reference(occupancy, camera, size)).clamp(min=1e-5).log().sum(2).exp()
        ),
        "plain emission-absorption": plain_emission,
        "absorption": lambda: AbsorptionRenderer(size)(grid, camera).image,
        "visual hull": lambda: VisualHullRenderer(size)(grid, camera).image,
        "emission-absorption": lambda: EmissionAbsorptionRenderer(size)(VoxelGrid(occupancy, color), camera).image,
    }


def timed(way: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    image = way()
    middle = now()
    image.sum().backward()
    return middle - start, now() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    rows = run(arguments.voxels, arguments.batch)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    from benchmarks.output import show

    show(rows)


if __name__ == "__main__":
    main()
