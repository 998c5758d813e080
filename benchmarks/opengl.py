"""Frames per second of new voxel grids: naive pyrender against both backends of OpenGLRenderer.

    python -m benchmarks.opengl [--voxels 64] [--size 128] [--batch 64] [--json rows.json]

Each image is of a new binary grid (alternating procedural chairs and blobs) from a new view, under two lights. Times are
from the grid in memory to the image in memory, on one core, OpenGL's threads included: the benchmark runs itself in a
process bound to one core. Each repeat measures all methods in turn, so that other load slows all of them alike. Results
are the median rate and the median ratio to the naive method.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.output import show
from renderers import Camera, OpenGLRenderer, ViewDistribution, VoxelGrid
from renderers.opengl import pyrender_backend


def run(voxels: int = 64, size: int = 128, batch: int = 64, repeats: int = 7) -> list[dict[str, Any]]:
    """Return one row per method: name, frames per second, and their ratio to the naive method."""
    settings = ", ".join(map(str, (voxels, size, batch, repeats)))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pin = f"import os; os.sched_setaffinity(0, {{{cores[-1]}}}); " if cores else ""
    code = f"{pin}from benchmarks.opengl import child; child({settings})"
    output = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
    ).stdout
    return json.loads(output.splitlines()[-1])


def child(voxels: int, size: int, batch: int, repeats: int) -> None:
    """Measure in this process and print rows as JSON."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    scene = VoxelGrid(torch.stack([solid(voxels, i) for i in range(batch)])[:, None])
    camera = ViewDistribution().sample(batch, generator)
    print(json.dumps(_measure(scene, camera, size, repeats)))


def _measure(scene: VoxelGrid, camera: Camera, size: int, repeats: int) -> list[dict[str, Any]]:
    small = VoxelGrid(scene.occupancy[:8]), camera[:8]  # for the slow methods
    moderngl = OpenGLRenderer(size, backend="moderngl")
    image_only = OpenGLRenderer(size, backend="moderngl", geometry=False)
    cubes = OpenGLRenderer(size, backend="moderngl", geometry=False, surface="cubes")
    pyrender = OpenGLRenderer(size, backend="pyrender")
    naive = Naive(size)
    methods: dict[str, tuple[Callable[[], Any], int]] = {
        "naive pyrender": (lambda: naive(*small), len(small[0])),
        "pyrender, batched": (lambda: pyrender(*small), len(small[0])),
        "moderngl": (lambda: image_only(scene, camera), len(scene)),
        "moderngl, with normals and depth": (lambda: moderngl(scene, camera), len(scene)),
        "moderngl, cubes": (lambda: cubes(*small), len(small[0])),
    }
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        for name, (render, count) in methods.items():
            start = time.perf_counter()
            render()
            if repeat:  # the first compiles shaders
                rates[name].append(count / (time.perf_counter() - start))
    return [
        {
            "way": name,
            "frames_per_s": statistics.median(values),
            "times_naive": statistics.median(a / b for a, b in zip(values, rates["naive pyrender"], strict=True)),
        }
        for name, values in rates.items()
    ]


class Naive:
    """The obvious implementation: scikit-image's marching cubes and a new pyrender scene for each image."""

    def __init__(self, size: int) -> None:
        shared = pyrender_backend.context()
        self.pyrender, self.offscreen, self.size = shared.pyrender, shared.offscreen, size

    def __call__(self, scene: VoxelGrid, camera: Camera) -> list[np.ndarray]:
        from skimage.measure import marching_cubes

        pyrender, images = self.pyrender, []
        self.offscreen.viewport_width = self.offscreen.viewport_height = self.size
        for solid, rotation in zip(scene.occupancy[:, 0].numpy(), camera.rotation.numpy(), strict=True):
            vertices, faces, normals, _ = marching_cubes(np.pad(solid, 1), 0.5)
            primitive = pyrender.Primitive(
                positions=((vertices[:, ::-1] - 0.5) / len(solid) - 0.5).astype(np.float32),
                normals=normals[:, ::-1].astype(np.float32),
                indices=faces[:, ::-1],
            )
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation.T, rotation.T @ [0, 0, camera.distance]
            pyrender_scene = pyrender.Scene(bg_color=(0.0, 0.0, 0.0, 0.0), ambient_light=(0.1, 0.1, 0.1))
            pyrender_scene.add(pyrender.Mesh([primitive]))
            pyrender_scene.add(pyrender.OrthographicCamera(1, 1, znear=0.1, zfar=4.0), pose=pose)
            for strength in (3.0, 1.5):
                pyrender_scene.add(pyrender.DirectionalLight(intensity=strength), pose=pose)
            images.append(self.offscreen.render(pyrender_scene)[0])
        return images


def solid(size: int, i: int) -> torch.Tensor:
    """Return a solid ``(D, D, D)`` of 0 and 1: chairs for even i, blobs for odd i."""
    generator = torch.Generator().manual_seed(i)
    if i % 2:
        noise = torch.randn(1, 1, 5, 5, 5, generator=generator)
        noise = torch.nn.functional.interpolate(noise, size=(size,) * 3, mode="trilinear", align_corners=True)[0, 0]
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        return (noise * 0.3 + 0.65 > (x * x + y * y + z * z).sqrt()).float()
    out = torch.zeros(size, size, size)
    wide, high, leg = (int(torch.randint(a, b, (1,), generator=generator)) for a, b in ((16, 25), (20, 31), (1, 5)))
    low, far = 32 - wide, 32 + wide
    boxes = [
        (low, far, high, high + 3, low, far),
        (low, far, high, 61, low, low + 3),
        (low, low + 2, high, high + 12, low, far),
    ]
    boxes += [(x, x + leg, 2, high, z, z + leg) for x in (low, far - leg) for z in (low, far - leg)]
    for x0, x1, y0, y1, z0, z1 in boxes:
        spans = [
            (round(a * size / 64), max(round(b * size / 64), round(a * size / 64) + 1))
            for a, b in ((z0, z1), (y0, y1), (x0, x1))
        ]
        out[tuple(slice(a, b) for a, b in spans)] = 1
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, default=64, help="number of voxels along an edge")
    parser.add_argument("--size", type=int, default=128, help="image size in pixels")
    parser.add_argument("--batch", type=int, default=64, help="grids per batch of moderngl")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = run(options.voxels, options.size, options.batch, options.repeats)
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
