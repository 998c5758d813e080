"""``render``: render meshes, voxels and the shapes of a config with any renderer."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    InputError,
    Lighting,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    Renderer,
    Rendering,
    SoftRasterizer,
    TriangleMesh,
    VisualHullRenderer,
    VoxelGrid,
)
from renderers.scenes import TOLERANCE
from trainer.cli import arguments
from trainer.cli.argument_types import split_data_options
from trainer.cli.config_composition import names_yaml
from trainer.export.scene_io import Scene, as_mesh, as_voxels, input_kind, load_scenes
from trainer.export.unused_options import given_options, refuse_unused
from utils.files import save_npy
from utils.memory import available_memory
from utils.progress import Progress
from visualization.images import check_replaceable_result, save_png, tile

VOLUME_RENDERERS = {
    "absorption": AbsorptionRenderer,
    "lit_absorption": LitAbsorptionRenderer,
    "visual_hull": VisualHullRenderer,
    "emission_absorption": EmissionAbsorptionRenderer,
}

BYTES_PER_PIXEL = 64  # of a view: image, alpha, depth and normals in float32, and once more while views are joined

MANY_PIXELS = 2**26  # of all images: from here on, rendering takes more than seconds


def main(argv: list[str]) -> int:
    """Write the images; return the exit status.

    Raises:
        InputError: Invalid options, files that cannot be read, or a renderer that does not work on this machine.
    """
    overrides, argv = split_data_options(argv)
    parser = arguments.render()
    options = parser.parse_args(argv)
    renderer, camera = _renderer(options), _camera(options)
    _check_effects(given_options(parser, argv, options), options, overrides)
    _check_memory(options.image_size, len(camera))
    images = 0
    taken: set[str] = set()
    shapes = sum(len(options.shapes) if names_yaml(name) else 1 for name in options.inputs)
    if options.image_size**2 * len(camera) * shapes > MANY_PIXELS:
        size = f"{options.image_size} x {options.image_size}"
        print(f"rendering {len(camera) * shapes} images of {size} pixels, which may take minutes", file=sys.stderr)
    with Progress(shapes * len(camera), desc="rendering", unit="image") as bar:
        for name in options.inputs:
            scenes = load_scenes(
                name,
                up=options.up,
                fit=options.fit,
                numbers=list(options.shapes),
                overrides=overrides,
                trust=options.trust,
            )
            for stem, scene in scenes:
                scene = _convert(f"{name}: {stem}" if names_yaml(name) else name, scene, renderer, options)
                unique = _unique_stem(options, stem, len(camera), taken)
                images += _write(options, unique, render(renderer, scene, camera, options, bar))
    print(f"{images} images of {shapes} shapes in {options.output}")
    return 0


def _check_effects(given: set[str], options: argparse.Namespace, overrides: list[str]) -> None:
    """Refuse options that change no image of these inputs by this renderer."""
    kinds = {input_kind(name) for name in options.inputs}
    config = "config" in kinds  # its shapes are voxels or meshes
    volume = options.renderer in VOLUME_RENDERERS
    effects: dict[str, tuple[object, str]] = {
        "shapes": (config, "configs"),
        **dict.fromkeys(("up", "fit"), ("mesh" in kinds, "mesh files")),
        "voxel_size": (volume and (config or "mesh" in kinds), "meshes that a volume renderer renders as voxels"),
        "threshold": (not volume and (config or "voxels" in kinds), "voxels that opengl or soft renders as a surface"),
        "unlit": (not volume, "opengl and soft"),
    }
    names = [word.removeprefix("--").partition("=")[0] for word in overrides]
    refuse_unused({*given, *names}, effects | dict.fromkeys(names, (config, "configs")))


def _convert(name: str, scene: Scene, renderer: Renderer, options: argparse.Namespace) -> Scene:
    """Return a scene as a type that the renderer accepts.

    Raises:
        InputError: The renderer would cut it, or show nothing.
    """
    if isinstance(scene, TriangleMesh) and TriangleMesh not in renderer.accepts:
        if (extent := float(scene.vertices.abs().max())) > 0.5 + TOLERANCE:
            raise InputError(
                f"{name} extends to {extent:.3g} along an axis, and voxels fill the cube to 0.5; pass --fit if it is a "
                "mesh file, or --renderer opengl or soft"
            )
        scene = as_voxels(scene, options.voxel_size)
    if isinstance(scene, VoxelGrid):
        threshold = 0 if options.renderer in VOLUME_RENDERERS else options.threshold
        if (largest := float(scene.occupancy.max())) <= threshold:
            fix = "pass another shape" if largest <= 0 else "decrease --threshold"
            raise InputError(
                f"{name} would be invisible: no voxel exceeds {threshold:g}, and the largest is {largest:.3g}; {fix}"
            )
        if VoxelGrid not in renderer.accepts:
            scene = as_mesh(scene, options.threshold)
    return scene


def render(renderer: Renderer, scene: Scene, camera: Camera, options: argparse.Namespace, bar: Progress) -> Rendering:
    """Render one scene, of a type that the renderer accepts, from every camera."""
    device = _device(options)
    scene = scene.to(device)
    views = []
    for i in range(len(camera)):
        views.append(renderer(scene, camera[i : i + 1].to(device)))
        bar.update()

    def join(name: str) -> Tensor | None:
        parts = [getattr(view, name) for view in views]
        return None if parts[0] is None else torch.cat(parts).cpu()

    image, alpha = (torch.cat([getattr(view, name) for view in views]).cpu() for name in ("image", "alpha"))
    return Rendering(image, alpha, join("depth"), join("normals"))


def _unique_stem(options: argparse.Namespace, stem: str, views: int, taken: set[str]) -> str:
    """Return the stem, with a number if one of its images would replace another one, and mark its images as taken."""
    suffixes = ["", *(f"_{kind}" for kind in ("normals", "depth") if getattr(options, kind))]
    unique, number = stem, 0
    while not taken.isdisjoint(
        names := {f"{unique}{view}{suffix}" for view in _view_names(views) for suffix in suffixes}
    ):
        number += 1
        unique = f"{stem}_{number}"
    taken |= names
    return unique


def _view_names(views: int) -> list[str]:
    """Return what the names of a scene's images say of the view; the last image of several views shows all."""
    return [*(f"_{i:03d}" for i in range(views)), "_views"] if views > 1 else [""]


def _write(options: argparse.Namespace, stem: str, rendering: Rendering) -> int:
    """Write the images of one scene, and a grid of all views; return their number."""
    kinds = {"": rendering.image}
    if options.normals:
        kinds["_normals"] = rendering.normal_map()
    if options.depth and rendering.depth is not None:
        kinds["_depth"] = depth_image(rendering.depth)
    count = len(rendering.image)
    views = _view_names(count)
    written = {}
    for suffix, images in kinds.items():
        together = [tile(images, min(count, 8))] if count > 1 else []
        for view, image in zip(views, [*images, *together], strict=True):
            written[options.output / f"{stem}{view}{suffix}.png"] = image
    depths = {}
    if options.depth and rendering.depth is not None:
        for view, depth in zip(views, rendering.depth, strict=False):  # none of all views
            depths[options.output / f"{stem}{view}_depth.npy"] = depth[0].numpy()
    for path in (*written, *depths):
        check_replaceable_result(path, "--output")
    for path, image in written.items():
        save_png(path, image, 1)
    for path, depth in depths.items():
        save_npy(depth, path)
    return len(written)


def depth_image(depth: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Map depth to gray levels: 1 at the nearest point of the batch, 0.2 at the farthest, 0 in the background."""
    foreground = depth.isfinite()
    if not foreground.any():
        return torch.zeros_like(depth)
    near, far = depth[foreground].min(), depth[foreground].max()
    return torch.where(foreground, 1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6), torch.zeros_like(depth))


def _camera(options: argparse.Namespace) -> Camera:
    if options.azimuth and options.views:
        raise InputError("--views and --azimuth exclude each other; pass one of them")
    azimuth = options.azimuth or [360 * i / (options.views or 1) for i in range(options.views or 1)]
    return Camera.orbit(azimuth, options.elevation, options.fov)


def _check_memory(image_size: int, views: int) -> None:
    """Check that the images of one shape fit into the free memory, since Linux would kill the process.

    Raises:
        InputError: They do not.
    """
    needed = BYTES_PER_PIXEL * image_size**2 * views
    if needed > (free := available_memory()):
        raise InputError(
            f"--image_size {image_size} needs about {needed / 2**30:,.1f} GiB of memory for {views} "
            f"view{'s' if views > 1 else ''} of a shape, and {free / 2**30:,.1f} GiB are free; choose smaller images"
            f"{' or fewer views' if views > 1 else ''}"
        )


def _renderer(options: argparse.Namespace) -> Renderer:
    name, size = options.renderer, options.image_size
    backends = ("moderngl", "pyrender") if name == "opengl" else ("auto", "torch", "numba", "triton")
    backend: Any = options.backend or backends[0]
    if backend not in backends:
        raise InputError(f"--backend of {name} must be one of {', '.join(backends)}, not {backend}")
    if backend == "triton" and not torch.cuda.is_available():
        raise InputError("--backend triton requires a CUDA device and none is available; use --backend auto")
    if name == "opengl":
        return OpenGLRenderer(size, options.threshold, "unlit" if options.unlit else None, backend, colored=True)
    if name == "soft":
        return SoftRasterizer(size, lighting=None if options.unlit else Lighting(), backend=backend, two_sided=True)
    if (options.normals or options.depth) and name != "lit_absorption":
        raise InputError(f"--renderer {name} has no normals and no depth; use opengl, soft or lit_absorption")
    return VOLUME_RENDERERS[name](size, backend=backend)


def _device(options: argparse.Namespace) -> str:
    """Return the device of the scenes: the CPU for OpenGL and numba, else the GPU if there is one."""
    on_cpu = options.renderer == "opengl" or options.backend == "numba"
    return "cuda" if not on_cpu and torch.cuda.is_available() else "cpu"
