"""The measurements of ``python -m benchmarks gpu``, one per process: python -m benchmarks.gpu_steps NAME OUTPUT [--tiny].

Each writes a JSON list of rows ``{"figure", "value", "goal"}`` to OUTPUT. ``--tiny`` runs at the smallest size, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks import scaling, soft_rasterizer, volume
from benchmarks.output import machine
from benchmarks.training_runs import StepRecorder, run_fit
from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    SoftRasterizer,
    TriangleMesh,
    ViewDistribution,
    VisualHullRenderer,
    VoxelGrid,
)

Rows = list[dict[str, Any]]
PROFILED = 3  # training steps of the timeline


def row(figure: str, value: Any, goal: str = "") -> dict[str, Any]:
    return {"figure": figure, "value": value, "goal": goal}


def device_of(tiny: bool) -> str:
    return "cpu" if tiny else "cuda"


def describe_machine(tiny: bool) -> Rows:
    """Versions, the card, and the device that OpenGL renders with."""
    import logging

    from renderers.opengl.egl import choose_device, egl_devices

    names: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: names.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("renderers.opengl.egl")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    if not tiny:
        torch.zeros(1, device="cuda")
    OpenGLRenderer(16, backend="moderngl")(VoxelGrid(torch.ones(1, 1, 4, 4, 4)), Camera.orbit(0.0, 0.0))
    cards = [f"{d.index} is CUDA {d.cuda}" for d in egl_devices()]
    return [
        row("machine", machine()),
        row("CUDA", torch.version.cuda or "none"),
        row("EGL devices of NVIDIA", ", ".join(cards) or "none"),
        row("EGL device", str(choose_device())),
        row("GL_RENDERER", "; ".join(names), "the card"),
    ]


def compare_kernels(tiny: bool) -> Rows:
    """Largest difference of each kernel from the reference, in image and gradients, relative to the largest value."""
    device, size = device_of(tiny), 8 if tiny else 32
    generator = torch.Generator().manual_seed(0)
    camera = ViewDistribution(fov=20.0).sample(2, generator).to(device)
    grid = torch.rand(2, 1, *[size] * 3, generator=generator).to(device)
    color = torch.rand(2, 3, *[size] * 3, generator=generator).to(device)
    rows = []
    for renderer in (AbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer, LitAbsorptionRenderer):
        colors = color if renderer is EmissionAbsorptionRenderer else None
        results = []
        for backend in ("torch", "auto"):
            leaf = grid.clone().requires_grad_()
            image = renderer(2 * size, backend=backend)(VoxelGrid(leaf, colors), camera).image
            results.append((image, *torch.autograd.grad(image.square().sum(), leaf)))
        rows.append(row(f"{renderer.__name__}, value and gradient", largest_difference(results), "< 1e-3"))
    mesh = soft_rasterizer.dome(size, batch=2, device=device)
    assert mesh.texture is not None
    for margin in (0.0, 1.0):
        results = []
        for backend in ("torch", "auto"):
            leaves = [x.detach().clone().requires_grad_() for x in (mesh.vertices, mesh.texture)]
            scene = TriangleMesh(leaves[0], mesh.faces, mesh.uvs, leaves[1])
            image = SoftRasterizer(2 * size, margin, backend=backend)(scene, camera).image
            results.append((image, *torch.autograd.grad(image.square().sum(), leaves)))
        # Depths that tie within rounding may choose another triangle at single pixels.
        rows.append(
            row(f"SoftRasterizer, margin {margin}, 99 % of values", largest_difference(results, tie=True), "< 1e-3")
        )
    return rows


def largest_difference(results: list[tuple[Tensor, ...]], tie: bool = False) -> float:
    """Return the largest error between two results, relative to the largest value.

    With ``tie`` it is the error that 99 % of the values stay below.
    """
    errors = []
    for a, b in zip(*results, strict=True):
        error = (a - b).detach().abs().flatten().float().cpu().sort().values
        errors.append(float(error[int(0.99 * (len(error) - 1)) if tie else -1] / a.detach().abs().max().cpu()))
    return max(errors)


def time_rasterizer(tiny: bool) -> Rows:
    """Forward and backward of 16 images of 128², 24,858 triangles each with a 256² texture."""
    mesh = soft_rasterizer.dome(16 if tiny else 128, batch=1 if tiny else 16, device=device_of(tiny))
    wait = (lambda: None) if tiny else torch.cuda.synchronize
    rows = [row("SoftRasterizer, ms", milliseconds(soft_rasterizer.make_step(mesh), wait, 2 if tiny else 50), "< 3")]
    peer = None if tiny else nvdiffrast_step(mesh)
    return [*rows, row("nvdiffrast, ms", "not installed" if peer is None else milliseconds(peer, wait, 50))]


def milliseconds(step: Callable[[], object], wait: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        wait()
        start = time.perf_counter()
        step()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def nvdiffrast_step(mesh: TriangleMesh) -> Callable[[], object] | None:
    """Return rasterization, texturing and antialiasing of the same mesh by nvdiffrast; None if it is not installed."""
    try:
        import nvdiffrast.torch as dr
    except ImportError:
        return None
    context, faces, size = dr.RasterizeCudaContext(), mesh.faces.int(), soft_rasterizer.IMAGE
    camera = Camera.orbit([10.0] * len(mesh), 5.0, soft_rasterizer.FOV, mesh.device)
    assert mesh.uvs is not None and mesh.texture is not None
    uvs, texture = (
        mesh.uvs.expand(len(mesh), -1, -1).contiguous(),
        mesh.texture.detach().permute(0, 2, 3, 1).contiguous(),
    )
    vertices = mesh.vertices.detach().requires_grad_()
    texture.requires_grad_()

    def step() -> None:
        x, y, depth = camera.project(vertices).unbind(-1)
        clip = torch.stack([x * depth, y * depth, (depth - camera.distance) / 2 * depth, depth], -1)
        raster, _ = dr.rasterize(context, clip, faces, (size, size))
        color = dr.texture(texture, dr.interpolate(uvs, raster, faces)[0], filter_mode="linear", boundary_mode="clamp")
        image = dr.antialias(color, raster, clip, faces)
        torch.autograd.grad(image.square().sum(), (vertices, texture))

    return step


def time_absorption(tiny: bool) -> Rows:
    """Absorption of 64³ grids in 128² images against ``grid_sample`` and a product."""
    voxels, batch, repeats = (8, 1, 1) if tiny else (64, 16, 15)
    times = volume.measure_in_subprocess("times", voxels, batch, repeats, device_of(tiny))
    plain, fast = ([sum(t) for t in times[name]] for name in ("plain absorption", "absorption"))
    ratio = statistics.median(p / f for p, f in zip(plain, fast, strict=True))
    milliseconds_each = 1e3 * statistics.median(fast) / batch
    return [row("absorption, times grid_sample", ratio, ">= 3"), row("absorption, ms per image", milliseconds_each)]


def time_opengl(tiny: bool) -> Rows:
    """Images per second of OpenGL on the device that this process chooses."""
    from benchmarks.opengl import solid

    voxels, size, batch, repeats = (8, 16, 2, 1) if tiny else (64, 128, 64, 9)
    scene = VoxelGrid(torch.stack([solid(voxels, i) for i in range(batch)])[:, None])
    camera = ViewDistribution().sample(batch, torch.Generator().manual_seed(0))
    renderer = OpenGLRenderer(size, backend="moderngl", geometry=False)
    seconds = milliseconds(lambda: renderer(scene, camera), lambda: None, repeats) / 1e3
    return [row(f"moderngl, {voxels}³ in {size}², images per second", batch / seconds)]


class Timeline(StepRecorder):
    """Times each step, then profiles some: the share of the time in which the GPU computes, and a Chrome trace.

    Args:
        path: output JSON file; the trace is ``<path>.trace.json``.
        first: number of steps before the profiled ones.
    """

    def __init__(self, path: str, first: int) -> None:
        super().__init__(path)
        self.first, self.busy = first, float("nan")
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start()
        if len(self.seconds) == self.first:
            self._profiler = torch.profiler.profile()
            self._profiler.__enter__()
            self._start = self._now(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if len(self.seconds) < self.first:  # waits for the device, so steps do not overlap
            super().on_train_batch_end(trainer, module)
            return
        self.seconds.append(float("nan"))
        self.reduced.append(self._sent)
        if self._profiler is not None and len(self.seconds) == self.first + PROFILED:
            wall = self._now(module) - self._start
            profiler, self._profiler = self._profiler, None
            profiler.__exit__(None, None, None)
            profiler.export_chrome_trace(f"{self.path}.trace.json")
            kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            self.busy = covered([(e.time_range.start, e.time_range.end) for e in kernels]) / 1e6 / wall

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        super().on_train_end(trainer, module)
        result = json.loads(Path(self.path).read_text())
        Path(self.path).write_text(json.dumps({**result, "seconds": self.seconds[: self.first], "busy": self.busy}))


def covered(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def train(config: str | None, settings: dict[str, Any], tiny: bool, output: Path) -> dict[str, Any]:
    """Train some steps and return what :class:`Timeline` wrote; its trace goes beside ``output``."""
    first = 2 if tiny else 12
    settings_trainer = {
        **settings.get("trainer", {}),
        "accelerator": "cpu" if tiny else "gpu",
        "devices": 1,
        "enable_progress_bar": False,
    }
    settings = {**settings, "trainer": settings_trainer}
    result = run_fit(
        "benchmarks.gpu_steps.Timeline",
        first + PROFILED,
        settings,
        config,
        arguments={"first": first},
        keep={".trace.json": output},
    )
    return {**result, "step": statistics.median(result["seconds"][len(result["seconds"]) // 2 :])}


def time_iggan(tiny: bool, output: Path, precision: str, compiled: bool) -> Rows:
    """IG-GAN's step at the paper's size on procedural chairs, batch 32."""
    name = f"IG-GAN, {precision}{', compiled' if compiled else ''}"
    with tempfile.TemporaryDirectory() as folder:
        settings = scaling.overrides_of("chairs.yaml", Path(folder))
        settings["data"]["init_args"] |= {"cache_dir": folder, "num_workers": 0, "total_kimg": 1000}
        settings["trainer"] = {"precision": precision, "callbacks": []}
        if compiled:
            settings["trainer"]["callbacks"] = [{"class_path": "callbacks.CompileNetworks"}]
        config = "chairs.yaml"
        if tiny:
            config = "chairs_procedural.yaml"
            data = {"images": 4, "reference_images": 2, "batch_size": 2, "cache_dir": folder, "total_kimg": 1}
            settings["data"] = {"init_args": data}
        result = train(config, settings, tiny, output)
    rows = [row(f"{name}, seconds per step", result["step"]), row(f"{name}, GPU busy", result["busy"], ">= 0.9")]
    return [*rows, row(f"{name}, peak GiB", result.get("gpu_bytes", result["peak_bytes"]) / 2**30)]


def time_meshgan(tiny: bool, output: Path, size: int, precision: str) -> Rows:
    """MeshGAN's step on procedural heads, fully grown."""
    from benchmarks.meshgan import settings_of

    size, batch = (16, 2) if tiny else (size, 32)
    with tempfile.TemporaryDirectory() as cache:
        settings = settings_of(size, batch, cache)
        settings["model"]["init_args"]["r1_every"] = 1
        settings["trainer"]["precision"] = precision
        result = train(None, settings, tiny, output)
    name = f"MeshGAN {size}², {precision}"
    goal = "<= 6 (H200)" if size == 128 else ""
    rows = [row(f"{name}, s per kimg", 1000 * result["step"] / batch, goal), row(f"{name}, GPU busy", result["busy"])]
    return [*rows, row(f"{name}, peak GiB", result.get("gpu_bytes", result["peak_bytes"]) / 2**30)]


def time_fid(tiny: bool) -> Rows:
    """FID of 10,000 images of 128²."""
    from benchmarks import fid

    rows = fid.run(32, 32) if tiny else fid.run(10_000, 128)
    return [
        row(", ".join(str(x[k]) for k in ("benchmark", "metric", "figure") if k in x), x["seconds"], "seconds")
        for x in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MEASUREMENTS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, on the CPU")
    given = parser.parse_args()
    given.output.write_text(json.dumps(MEASUREMENTS[given.name](given.tiny, given.output)))


MEASUREMENTS: dict[str, Callable[[bool, Path], Rows]] = {
    "machine": lambda tiny, output: describe_machine(tiny),
    "kernels": lambda tiny, output: compare_kernels(tiny),
    "rasterizer": lambda tiny, output: time_rasterizer(tiny),
    "absorption": lambda tiny, output: time_absorption(tiny),
    "opengl": lambda tiny, output: time_opengl(tiny),
    "iggan": lambda tiny, output: time_iggan(tiny, output, "32-true", False),
    "iggan_bf16": lambda tiny, output: time_iggan(tiny, output, "bf16-mixed", False),
    "iggan_compiled": lambda tiny, output: time_iggan(tiny, output, "32-true", True),
    "iggan_bf16_compiled": lambda tiny, output: time_iggan(tiny, output, "bf16-mixed", True),
    "meshgan_64": lambda tiny, output: time_meshgan(tiny, output, 64, "32-true"),
    "meshgan_64_bf16": lambda tiny, output: time_meshgan(tiny, output, 64, "bf16-mixed"),
    "meshgan_128": lambda tiny, output: time_meshgan(tiny, output, 128, "32-true"),
    "meshgan_128_bf16": lambda tiny, output: time_meshgan(tiny, output, 128, "bf16-mixed"),
    "fid": lambda tiny, output: time_fid(tiny),
}

if __name__ == "__main__":
    main()
