"""Request handlers of ``view``: a run's shapes as GLB, and images of them by any renderer."""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lightning_modules import IGGANModule, MeshGANModule, VoxelGANModule
from lightning_modules.voxel_generative import VoxelGenerativeModule
from renderers import (
    AbsorptionRenderer,
    Camera,
    InputError,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    Renderer,
    SoftRasterizer,
    TriangleMesh,
    VisualHullRenderer,
    VoxelGrid,
)
from trainer.export.samples import Sample
from trainer.runs.loading import LoadedRun
from trainer.viewer.params import QueryParameters
from visualization.images import to_pil
from visualization.mesh_io import write_surface
from visualization.paper_figures.options import slerp

MIN_SIZE, MAX_SIZE = 16, 512  # of requested images, in pixels
CACHED_SHAPES = 32
KINDS = ("image", "normals", "texture", "background")

RequestHandler = Callable[[dict[str, str]], bytes]


@dataclass(frozen=True)
class ShapeSelection:
    """A sample, or an interpolation between two samples.

    Args:
        seed: Seed of the samples.
        a: Number of the first sample.
        b: Number of the second sample.
        mix: Position between them, 0 is ``a`` and 1 is ``b``. Latents of voxels are interpolated along a great circle,
            those of MeshGAN along a line, as in ``figures``.
        truncation: Psi of MeshGAN's styles; other latents are multiplied by it.
    """

    seed: int
    a: int
    b: int
    mix: float
    truncation: float


class GeneratedShape(NamedTuple):
    """A generated shape (a batch of one); for MeshGAN also its background and the image that it is cropped from."""

    scene: VoxelGrid | TriangleMesh
    background: Float[Tensor, "1 3 N N"] | None = None
    full_background: Float[Tensor, "1 3 M M"] | None = None


class RendererChoice(NamedTuple):
    """A renderer that the page offers.

    Args:
        label: Its name on the page.
        renderer: The renderer.
        fixed_size: Whether it has a fixed image size, as a network does.
        untextured: Whether to render the shape without its texture.
    """

    label: str
    renderer: Renderer
    fixed_size: bool = False
    untextured: bool = False

    @property
    def has_normals(self) -> bool:
        return isinstance(self.renderer, OpenGLRenderer | SoftRasterizer)


class RunViewer:
    """Handle requests for one run. Handlers may use OpenGL, so all must be called in the same thread.

    Args:
        run: A run whose generator makes voxels or meshes.

    Raises:
        InputError: The run generates images.
    """

    def __init__(self, run: LoadedRun) -> None:
        module = run.module
        if not isinstance(module, VoxelGenerativeModule | MeshGANModule):
            raise InputError(
                f"{run.folder} is a run of {type(module).__name__}, which generates images, and view shows shapes; use "
                "predict or figures"
            )
        self.run, self.module, self.seed = run, module, module.sample_seed
        self.renderers = _renderers(module)
        self._shape = lru_cache(maxsize=CACHED_SHAPES)(self._generate)

    @property
    def handlers(self) -> dict[str, tuple[str, RequestHandler]]:
        """Content type and handler by path. Handlers raise InputError for invalid parameters."""
        return {
            "/about.json": ("application/json", self.about),
            "/shape.glb": ("model/gltf-binary", self.shape),
            "/image.png": ("image/png", self.image),
        }

    def about(self, values: dict[str, str]) -> bytes:
        """Return the facts about the run that the page needs, as JSON."""
        QueryParameters(values).finish()
        renderers = {name: {"label": r.label, "normals": r.has_normals} for name, r in self.renderers.items()}
        facts = {
            "name": self.run.name,
            "method": type(self.module).__name__.removesuffix("Module"),
            "checkpoint": self.run.checkpoint.name,
            "kimg": self.module.kimg,
            "shape": "mesh" if isinstance(self.module, MeshGANModule) else "voxels",
            "seed": self.seed,
            "truncation": self._default_truncation,
            "threshold": None if isinstance(self.module, MeshGANModule) else self.module.threshold,
            "fov": self.module.views.fov,
            "renderers": renderers,
        }
        return json.dumps(facts).encode()

    def shape(self, values: dict[str, str]) -> bytes:
        """Return the surface as GLB, as ``export`` writes it; ``texture=off`` removes a mesh's texture."""
        query = QueryParameters(values)
        selection, threshold = self._selection(query)
        textured = query.choice("texture", ("on", "off")) == "on"
        query.finish()
        scene = self._shape(selection).scene
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shape.glb"
            if isinstance(scene, TriangleMesh) and not textured:
                write_surface(path, scene.vertices[0].cpu().numpy(), scene.faces.cpu().numpy())
            else:
                sample = Sample(selection.a, scene, self.module.renderer, self.module.views.fov, threshold)
                sample.write(path, ("glb",))
            return path.read_bytes()

    def image(self, values: dict[str, str]) -> bytes:
        """Return a PNG: a render of the shape, its normal map, its texture or its background.

        ``azimuth`` and ``elevation`` are in degrees. ``background=generated`` renders MeshGAN's background.
        """
        query = QueryParameters(values)
        selection, threshold = self._selection(query)
        kind = query.choice("kind", KINDS)
        renderer = self.renderers[query.choice("renderer", tuple(self.renderers))]
        size = query.integer("size", 256, MIN_SIZE, MAX_SIZE)
        azimuth, elevation = query.number("azimuth", 0, -1e6, 1e6), query.number("elevation", 0, -90, 90)
        with_background = query.choice("background", ("black", "generated")) == "generated"
        query.finish()
        shape = self._shape(selection)
        if kind in ("texture", "background"):
            image = getattr(shape.scene, "texture", None) if kind == "texture" else shape.full_background
            if image is None:
                raise InputError(f"shapes of this run have no {kind}")
            return _png(image[0])
        if not with_background:
            shape = GeneratedShape(shape.scene)
        camera = Camera.orbit(azimuth % 360, elevation, self.module.views.fov, shape.scene.device)
        return _png(_render(renderer, size, shape, camera, threshold, kind == "normals"))

    @property
    def _default_truncation(self) -> float:
        psi = self.module.truncation if isinstance(self.module, MeshGANModule) else None
        return 1.0 if psi is None else psi

    def _selection(self, query: QueryParameters) -> tuple[ShapeSelection, float]:
        """Return the selected shape and the occupancy threshold."""
        seed, a = query.integer("seed", self.seed), query.integer("a", 0)
        b, mix = query.integer("b", a), query.number("mix", 0, 0, 1)
        truncation = query.number("truncation", self._default_truncation, 0, 1)
        threshold = 0.5
        if not isinstance(self.module, MeshGANModule):
            threshold = query.number("threshold", self.module.threshold, 0, 1)
        if mix in (0, 1) or a == b:  # a single sample, which needs only one cache entry
            a = b = b if mix == 1 else a
            mix = 0.0
        return ShapeSelection(seed, a, b, mix, truncation), threshold

    @torch.no_grad()
    def _generate(self, selection: ShapeSelection) -> GeneratedShape:
        self.module.sample_seed = selection.seed
        a, b = self.module.sample_latents(torch.tensor([selection.a, selection.b]))
        if isinstance(self.module, MeshGANModule):
            scene = self.module.truncated_scenes(torch.lerp(a, b, selection.mix)[None], selection.truncation)
            return GeneratedShape(scene.mesh, scene.background, scene.full_background)
        z = slerp(a, b, torch.tensor([selection.mix], device=a.device))[0]
        return GeneratedShape(self.module.shapes(selection.truncation * z[None]))


def _renderers(module: VoxelGenerativeModule | MeshGANModule) -> dict[str, RendererChoice]:
    """Return the run's renderers, then others. The first is the default."""
    if isinstance(module, MeshGANModule):
        return {
            "run": RendererChoice("soft rasterizer", module.renderer),
            "crisp": RendererChoice("soft rasterizer, crisp", SoftRasterizer(MIN_SIZE, margin=0)),
            "opengl": RendererChoice("OpenGL", OpenGLRenderer(MIN_SIZE, lighting="unlit", backend="moderngl")),
            "plain": RendererChoice(
                "OpenGL, untextured", OpenGLRenderer(MIN_SIZE, backend="moderngl"), untextured=True
            ),
        }
    renderers = {"run": RendererChoice("as evaluated (OpenGL)", module.renderer)}
    if isinstance(module, IGGANModule):
        renderers["training"] = RendererChoice("neural renderer", module.neural_renderer, fixed_size=True)
    if isinstance(module, VoxelGANModule):
        renderers["training"] = RendererChoice("as in training", module.differentiable_renderer, fixed_size=True)
    cubes = OpenGLRenderer(MIN_SIZE, backend="moderngl", surface="cubes")
    return renderers | {
        "cubes": RendererChoice("OpenGL, cubes", cubes),
        "absorption": RendererChoice("absorption", AbsorptionRenderer(MIN_SIZE)),
        "lit_absorption": RendererChoice("lit absorption", LitAbsorptionRenderer(MIN_SIZE)),
        "visual_hull": RendererChoice("visual hull", VisualHullRenderer(MIN_SIZE)),
    }


@torch.no_grad()
def _render(
    choice: RendererChoice, size: int, shape: GeneratedShape, camera: Camera, threshold: float, normals: bool
) -> Float[Tensor, "C H W"]:
    """Render an image or a normal map. OpenGL renders the thresholded grid, others the continuous one."""
    scene, renderer = shape.scene, copy.copy(choice.renderer)
    if not choice.fixed_size:
        renderer.image_size = size
    if isinstance(scene, VoxelGrid) and isinstance(renderer, OpenGLRenderer):
        scene = scene.binarize(threshold)
    if isinstance(scene, TriangleMesh) and choice.untextured:
        scene = replace(scene, texture=None)
    background = shape.background
    if background is not None:
        background = None if normals else F.interpolate(background, size=(renderer.image_size,) * 2, mode="bilinear")
    rendering = renderer(scene, camera, background)
    if not normals:
        return rendering.image[0]
    if rendering.normals is None:
        raise InputError(f"{choice.label} has no normals; select OpenGL or the soft rasterizer")
    return rendering.normal_map()[0]


def _png(image: Float[Tensor, "C H W"]) -> bytes:
    stream = io.BytesIO()
    to_pil(image).save(stream, format="PNG")
    return stream.getvalue()
