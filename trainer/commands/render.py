"""``render``: meshes, voxels and the shapes of a config, drawn by any renderer."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    InputError,
    Lighting,
    OpenGLRenderer,
    Renderer,
    Rendering,
    SoftRasterizer,
    TriangleMesh,
    VisualHullRenderer,
    VoxelGrid,
)
from trainer.cli import arguments
from trainer.cli.command_parser import parse
from trainer.export.scene_io import Scene, as_mesh, as_voxels, scenes_of
from utils.files import write_atomically
from utils.progress import Progress
from visualization.images import save_png, tile

VOLUMES = {
    "absorption": AbsorptionRenderer,
    "visual_hull": VisualHullRenderer,
    "emission_absorption": EmissionAbsorptionRenderer,
}


def main(argv: list[str]) -> int:
    """Write the images; returns the exit status.

    Raises:
        InputError: options or files that cannot be used, or a renderer that does not work here.
    """
    overrides = [word for word in argv if word.startswith("--data.")]
    options = parse(arguments.render(), [word for word in argv if not word.startswith("--data.")])
    if options is None:
        return 0
    renderer, camera = _renderer(options), _camera(options)
    written, taken = 0, set()
    with Progress(len(options.inputs), desc="drawing", unit="input") as bar:
        for name in options.inputs:
            found = scenes_of(name, up=options.up, fit=options.fit, numbers=list(options.shapes), overrides=overrides)
            for stem, scene in found:
                unique = stem if stem not in taken else f"{stem}_{len(taken)}"
                taken.add(unique)
                written += _write(options, unique, draw(renderer, scene, camera, options))
            bar.update()
    print(f"{written} images of {len(taken)} shapes in {options.output}")
    return 0


def draw(renderer: Renderer, scene: Scene, camera: Camera, options: argparse.Namespace) -> Rendering:
    """One scene from every camera, made to a kind that the renderer takes."""
    if isinstance(scene, TriangleMesh) and TriangleMesh not in renderer.accepts:
        scene = as_voxels(scene, options.voxel_size)
    if isinstance(scene, VoxelGrid) and VoxelGrid not in renderer.accepts:
        scene = as_mesh(scene, options.threshold)
    device = _device(options)
    scene = scene.to(device)
    views = [renderer(scene, camera[i : i + 1].to(device)) for i in range(len(camera))]

    def join(name: str) -> Tensor | None:
        parts = [getattr(view, name) for view in views]
        return None if parts[0] is None else torch.cat(parts).cpu()

    return Rendering(join("image"), join("alpha"), join("depth"), join("normals"))


def _write(options: argparse.Namespace, stem: str, drawn: Rendering) -> int:
    """The images of one scene, and all views on one sheet; returns their number."""
    kinds = {"": drawn.image}
    if options.normals:
        kinds["_normals"] = drawn.normal_map()
    if options.depth:
        kinds["_depth"] = near_is_bright(drawn.depth)
    count = len(drawn.image)
    for suffix, images in kinds.items():
        for i, image in enumerate(images):
            view = f"_{i:03d}" if count > 1 else ""
            save_png(options.output / f"{stem}{view}{suffix}.png", image, 1)
            if suffix == "_depth":
                _save_array(options.output / f"{stem}{view}_depth.npy", drawn.depth[i, 0].numpy())
        if count > 1:
            save_png(options.output / f"{stem}_views{suffix}.png", tile(images, min(count, 8)), 1)
    return len(kinds) * (count + (count > 1))


def near_is_bright(depth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Depth as an image: 1 where the nearest point of all is, 0.2 at the farthest, 0 where nothing is seen."""
    seen = depth.isfinite()
    if not seen.any():
        return torch.zeros_like(depth)
    near, far = depth[seen].min(), depth[seen].max()
    return torch.where(seen, 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6), torch.zeros_like(depth))


def _camera(options: argparse.Namespace) -> Camera:
    if options.azimuth and options.views:
        raise InputError("--views and --azimuth exclude each other; give one")
    if options.views == 0:
        raise InputError("--views must be at least 1")
    azimuth = options.azimuth or [360 * i / (options.views or 1) for i in range(options.views or 1)]
    return Camera.orbit(azimuth, options.elevation, options.fov)


def _renderer(options: argparse.Namespace) -> Renderer:
    name, size = options.renderer, options.image_size
    if size < 1 or options.voxel_size < 1:
        raise InputError("--image_size and --voxel_size must be at least 1")
    backends = ("moderngl", "pyrender") if name == "opengl" else ("auto", "torch", "numba", "triton")
    backend = options.backend or backends[0]
    if backend not in backends:
        raise InputError(f"--backend of {name} is one of {', '.join(backends)}, not {backend}")
    if backend == "triton" and not torch.cuda.is_available():
        raise InputError("--backend triton needs a CUDA device, and there is none; auto takes what there is")
    if name == "opengl":
        lighting = "unlit" if options.unlit else None
        return OpenGLRenderer(size, options.threshold, lighting, backend)
    if name == "soft":
        return SoftRasterizer(size, lighting=None if options.unlit else Lighting(), backend=backend)
    if options.normals or options.depth:
        raise InputError(f"{name} gives no normals and no depth; opengl and soft do")
    return VOLUMES[name](size, backend=backend)


def _device(options: argparse.Namespace) -> str:
    """OpenGL takes scenes from the CPU, and numba draws there."""
    anywhere = options.renderer != "opengl" and options.backend != "numba"
    return "cuda" if anywhere and torch.cuda.is_available() else "cpu"


def _save_array(path: Path, values: np.ndarray) -> None:
    def save(file: Path) -> None:
        with file.open("wb") as stream:  # numpy would add a suffix to a path
            np.save(stream, values)

    write_atomically(path, save)
