"""Measure speed and memory of the soft rasterizer, and compare it with deodr if that is installed.

    python -m benchmarks.soft_rasterizer [--json figures.json]

The scene is MeshGAN's circular grid mesh bent to a dome that fills 80 % of a 128² image, with a 256² texture and a
background; forward, and backward to vertices and texture. CPU times are for one core. Times are the median and the minimum
of repeated runs in milliseconds. The minimum estimates an idle machine; ratios are between medians.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from renderers.cameras import Camera
from renderers.meshes.grid_mesh import grid_mesh
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer.renderer import SoftRasterizer

IMAGE, TEXTURE, FOV = 128, 256, 10.0
GRIDS = (33, 64, 128, 180, 256)  # 1,484 to 100,742 triangles


def run(repeats: int = 30) -> list[dict]:
    """Return one row per measurement: name, triangles, batch, milliseconds (median and least), microseconds per triangle."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peer = deodr_step(dome(128))
        ours = make_step(dome(128))
        rows = []
        if peer is None:
            rows.append(row("unrender, numba", 128, 1, measure(ours, repeats)))
        else:
            # Measure in turns, so that other load affects both equally.
            first, second = measure_in_turns(ours, peer, repeats)
            rows.append(row("unrender, numba", 128, 1, first))
            rows.append(row("deodr", 128, 1, second))
            rows[0]["ratio to deodr"] = round(rows[0]["median ms"] / rows[1]["median ms"], 3)
        rows.append(row("unrender, numba, margin 0", 128, 1, measure(make_step(dome(128), margin=0.0), repeats)))
        rows.append(row("unrender, numba, with normals", 128, 1, measure(make_step(dome(128), normals=True), repeats)))
        rows.append(row("unrender, torch", 128, 1, measure(make_step(dome(128), backend="torch"), 3)))
        rows.extend(row("scaling, numba", grid, 1, measure(make_step(dome(grid)), repeats)) for grid in GRIDS)
        batch = dome(128, batch=16)
        rows.append(row("unrender, numba", 128, 16, measure(make_step(batch), max(3, repeats // 10))))
    finally:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        for backend in ("triton", "torch"):
            step = make_step(dome(128, batch=16, device="cuda"), backend=backend)
            torch.cuda.reset_peak_memory_stats()
            rows.append(row(f"unrender, {backend}, CUDA", 128, 16, measure(step, repeats, torch.cuda.synchronize)))
            rows[-1]["peak MiB"] = float(round(torch.cuda.max_memory_allocated() / 2**20))
    rows[-1]["process peak MiB"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    return rows


def dome(grid: int, batch: int = 1, device: str = "cpu") -> TriangleMesh:
    """Return the mesh of ``grid``² vertices as a dome whose silhouette fills 80 % of the image."""
    faces, uvs = grid_mesh(grid, device)
    x, y = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    height = (1 - x * x - y * y).clamp(min=0).sqrt()
    radius = math.sqrt(0.8 * 4 / math.pi) * 1.03  # area of the disc in [-1, 1]², and a factor for the tilt
    vertices = torch.stack([x * radius, y * radius, 0.8 * height - 0.3], -1)
    noise = torch.Generator().manual_seed(0)
    texture = torch.rand(batch, 3, TEXTURE, TEXTURE, generator=noise).to(device)
    return TriangleMesh(vertices.expand(batch, -1, -1).contiguous(), faces, uvs, texture)


def make_step(
    mesh: TriangleMesh, backend: str = "auto", margin: float = 1.0, normals: bool = False
) -> Callable[[], object]:
    """Return a function that runs forward and backward of one batch on the mesh's device."""
    renderer = SoftRasterizer(IMAGE, margin=margin, backend=backend, normals=normals)
    camera = Camera.orbit([10.0] * len(mesh), 5.0, FOV, mesh.device)
    background = torch.full((len(mesh), 3, IMAGE, IMAGE), 0.5, device=mesh.device)
    weight = torch.rand(len(mesh), 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(1)).to(mesh.device)
    assert mesh.texture is not None
    vertices, texture = mesh.vertices.requires_grad_(), mesh.texture.requires_grad_()

    def step() -> None:
        rendering = renderer(mesh, camera, background)
        torch.autograd.grad(rendering.image, (vertices, texture), weight)

    return step


def deodr_step(mesh: TriangleMesh) -> Callable[[], object] | None:
    """Return deodr's compiled renderer on the same screen coordinates, or None if it is not installed.

    Its time excludes projection, the detection of silhouette edges and automatic differentiation; ours includes them.
    """
    try:
        import numpy as np
        from deodr import differentiable_renderer as deodr
    except ImportError:
        return None
    assert mesh.uvs is not None and mesh.texture is not None
    x, y, depth = Camera.orbit(10.0, 5.0, FOV).project(mesh.vertices)[0].double().numpy().T
    screen = np.stack([(1 + x) / 2 * IMAGE, (1 - y) / 2 * IMAGE, depth], -1)
    faces = mesh.faces.numpy().astype(np.uint32)
    count, vertices = len(faces), len(screen)
    edges = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1), -1).reshape(-1, 2)
    _, inverse, uses = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    scene = deodr.Scene2D(
        faces=faces,
        faces_uv=faces,
        ij=screen[:, :2].copy(),
        depths=screen[:, 2].copy(),
        textured=np.ones(count, dtype=bool),
        shaded=np.ones(count, dtype=bool),  # by 1; deodr textures only shaded triangles
        uv=1 + mesh.uvs.double().numpy() * (TEXTURE - 3),
        shade=np.ones(vertices),
        colors=np.zeros((vertices, 3)),
        edgeflags=(uses[inverse.reshape(-1)] == 1).reshape(-1, 3),
        height=IMAGE,
        width=IMAGE,
        nb_colors=3,
        texture=np.ascontiguousarray(mesh.texture[0].permute(1, 2, 0).double().numpy()),
        background_image=np.full((IMAGE, IMAGE, 3), 0.5),
        clockwise=False,
        backface_culling=True,  # required for gradients
        perspective_correct=False,  # not differentiable otherwise
        integer_pixel_centers=False,
    )
    image, depth = np.zeros((IMAGE, IMAGE, 3)), np.zeros((IMAGE, IMAGE))
    gradient = np.random.default_rng(1).random((IMAGE, IMAGE, 3))

    def step() -> None:
        deodr.renderScene(scene, 1.0, image, depth, check_valid=True)
        for name in ("ij", "uv", "shade", "colors", "texture"):
            setattr(scene, f"{name}_b", np.zeros_like(getattr(scene, name)))
        deodr.renderSceneB(scene, 1.0, image.copy(), depth, gradient.copy(), check_valid=True)

    return step


def measure(step: Callable[[], object], repeats: int, wait: Callable[[], object] = lambda: None) -> list[float]:
    """Return the milliseconds of each run, after two warm-up runs."""
    times = []
    for _ in range(repeats + 2):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return times[2:]


def measure_in_turns(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    pairs = [(measure(first, 1), measure(second, 1)) for _ in range(repeats)]
    return [a[0] for a, _ in pairs], [b[0] for _, b in pairs]


def row(name: str, grid: int, batch: int, times: list[float]) -> dict:
    triangles = len(grid_mesh(grid)[0])
    median = statistics.median(times)
    return {
        "name": name,
        "triangles": triangles,
        "batch": batch,
        "median ms": round(median, 3),
        "least ms": round(min(times), 3),
        "us a triangle": round(1e3 * median / triangles / batch, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    rows = run(arguments.repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    from benchmarks.output import show

    show(rows)


if __name__ == "__main__":
    main()
