"""A run's shapes as the page of ``view`` asks for them: as GLB, and as images by any renderer."""

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
from PIL import Image
from torch import Tensor

from lightning_modules import IGGANModule, MeshGANModule, VoxelGANModule
from lightning_modules.generative import VoxelGenerativeModule
from renderers import (
    AbsorptionRenderer,
    Camera,
    InputError,
    OpenGLRenderer,
    Renderer,
    SoftRasterizer,
    TriangleMesh,
    VisualHullRenderer,
    VoxelGrid,
)
from trainer.export.samples import Sample
from trainer.runs.loading import LoadedRun
from trainer.viewer.params import Query
from visualization.mesh_io import write_surface
from visualization.paper_figures.options import slerp

SMALLEST, LARGEST = 16, 512  # images that are asked for, in pixels
KEPT = 32  # scenes in memory
KINDS = ("image", "normals", "texture", "background")

Answer = Callable[[dict[str, str]], bytes]


@dataclass(frozen=True)
class Choice:
    """Which shape.

    Args:
        seed: of the samples.
        a: number of a sample.
        b: number of another.
        mix: 0 is a, 1 is b; between them voxels' latents go along a great circle, MeshGAN's along a line, as in ``figures``.
        truncation: psi of MeshGAN's styles; other latents are multiplied by it.
    """

    seed: int
    a: int
    b: int
    mix: float
    truncation: float


class Shown(NamedTuple):
    """A shape, a batch of one; of MeshGAN what stands behind it and what that is cropped from."""

    scene: VoxelGrid | TriangleMesh
    background: Float[Tensor, "1 3 N N"] | None = None
    full_background: Float[Tensor, "1 3 M M"] | None = None


class Way(NamedTuple):
    """A way to draw.

    Args:
        label: what it is called.
        renderer: draws.
        fixed: whether its size is its own, as a network's is.
        plain: without texture.
    """

    label: str
    renderer: Renderer
    fixed: bool = False
    plain: bool = False

    @property
    def normals(self) -> bool:
        """Whether it gives normals too."""
        return isinstance(self.renderer, OpenGLRenderer | SoftRasterizer)


class RunViewer:
    """Answers for one run. It may draw by OpenGL, so it is for one thread alone.

    Args:
        run: whose generator makes voxels or meshes.

    Raises:
        InputError: a run without shapes.
    """

    def __init__(self, run: LoadedRun) -> None:
        module = run.module
        if not isinstance(module, VoxelGenerativeModule | MeshGANModule):
            raise InputError(
                f"{run.folder.path} is a run of {type(module).__name__}, which generates images, and view turns shapes; "
                "predict and figures show its images"
            )
        self.run, self.module, self.seed = run, module, module.sample_seed
        self.voxels = isinstance(module, VoxelGenerativeModule)
        self.ways = _voxel_ways(module) if self.voxels else _mesh_ways(module)
        self._shown = lru_cache(maxsize=KEPT)(self._generate)

    @property
    def answers(self) -> dict[str, tuple[str, Answer]]:
        """By address the type of content and what gives it; each raises InputError for parameters that do not fit."""
        return {
            "/about.json": ("application/json", self.about),
            "/shape.glb": ("model/gltf-binary", self.shape),
            "/image.png": ("image/png", self.image),
        }

    def about(self, given: dict[str, str]) -> bytes:
        """What the page has to know of the run, as JSON."""
        Query(given).end()
        facts = {
            "name": self.run.name,
            "method": type(self.module).__name__.removesuffix("Module"),
            "checkpoint": self.run.checkpoint.name,
            "kimg": self.module.kimg,
            "shape": "voxels" if self.voxels else "mesh",
            "seed": self.seed,
            "truncation": self._usual_truncation,
            "threshold": self._usual_threshold,
            "fov": self.module.views.fov,
            "renderers": {name: {"label": way.label, "normals": way.normals} for name, way in self.ways.items()},
        }
        return json.dumps(facts).encode()

    def shape(self, given: dict[str, str]) -> bytes:
        """The surface as GLB, the file that ``export`` writes; ``surface=plain`` leaves out a mesh's texture."""
        query = Query(given)
        choice, threshold = self._choice(query)
        plain = query.word("surface", ("whole", "plain")) == "plain"
        query.end()
        scene = self._shown(choice).scene
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shape.glb"
            if plain and isinstance(scene, TriangleMesh):
                write_surface(path, scene.vertices[0].cpu().numpy(), scene.faces.cpu().numpy())
            else:
                sample = Sample(choice.a, scene, self.module.renderer, self.module.views.fov, threshold)
                sample.write(path, ("glb",))
            return path.read_bytes()

    def image(self, given: dict[str, str]) -> bytes:
        """PNG: the shape from one view (``azimuth``, ``elevation`` in degrees), its normal map, texture or background."""
        query = Query(given)
        choice, threshold = self._choice(query)
        kind = query.word("kind", KINDS)
        way = self.ways[query.word("renderer", tuple(self.ways))]
        size = query.whole("size", 256, SMALLEST, LARGEST)
        azimuth, elevation = query.number("azimuth", 0, -1e6, 1e6), query.number("elevation", 0, -90, 90)
        behind = query.word("behind", ("black", "background")) == "background"
        query.end()
        shown = self._shown(choice)
        if kind in ("texture", "background"):
            return _png(
                _present(kind, getattr(shown.scene, "texture", None) if kind == "texture" else shown.full_background)
            )
        camera = Camera.orbit(azimuth % 360, elevation, self.module.views.fov, shown.scene.device)
        return _png(_draw(way, size, shown if behind else Shown(shown.scene), camera, threshold, kind == "normals"))

    @property
    def _usual_threshold(self) -> float | None:
        return self.module.threshold if self.voxels else None

    @property
    def _usual_truncation(self) -> float:
        psi = None if self.voxels else self.module.truncation
        return 1.0 if psi is None else psi

    def _choice(self, query: Query) -> tuple[Choice, float]:
        """Which shape, and what counts as occupied of it."""
        seed, a = query.whole("seed", self.seed), query.whole("a", 0)
        b, mix = query.whole("b", a), query.number("mix", 0, 0, 1)
        truncation = query.number("truncation", self._usual_truncation, 0, 1)
        threshold = query.number("threshold", self._usual_threshold, 0, 1) if self.voxels else 0.5
        if mix in (0, 1) or a == b:  # one sample, which has one place in memory
            a = b = b if mix == 1 else a
            mix = 0.0
        return Choice(seed, a, b, mix, truncation), threshold

    @torch.no_grad()
    def _generate(self, choice: Choice) -> Shown:
        self.module.sample_seed = choice.seed
        a, b = self.module.sample_latents(torch.tensor([choice.a, choice.b]))
        if self.voxels:
            z = slerp(a, b, torch.tensor([choice.mix], device=a.device))[0]
            return Shown(self.module.shapes(choice.truncation * z[None]))
        scene = self.module.truncated_scenes(torch.lerp(a, b, choice.mix)[None], choice.truncation)
        return Shown(scene.mesh, scene.background, scene.full_background)


def _voxel_ways(module: VoxelGenerativeModule) -> dict[str, Way]:
    """The run's renderers, then others; the first is what images are of where nothing else is said."""
    ways = {"run": Way("as evaluated (OpenGL)", module.renderer)}
    if isinstance(module, IGGANModule):
        ways["training"] = Way("the neural renderer", module.neural_renderer, fixed=True)
    if isinstance(module, VoxelGANModule):
        ways["training"] = Way("as in training", module.differentiable_renderer, fixed=True)
    ways["cubes"] = Way("OpenGL, cubes", OpenGLRenderer(SMALLEST, backend="moderngl", surface="cubes"))
    ways["absorption"] = Way("absorption", AbsorptionRenderer(SMALLEST))
    ways["visual_hull"] = Way("visual hull", VisualHullRenderer(SMALLEST))
    return ways


def _mesh_ways(module: MeshGANModule) -> dict[str, Way]:
    return {
        "run": Way("soft rasterizer", module.renderer),
        "crisp": Way("soft rasterizer, crisp", SoftRasterizer(SMALLEST, margin=0)),
        "opengl": Way("OpenGL", OpenGLRenderer(SMALLEST, lighting="unlit", backend="moderngl")),
        "plain": Way("OpenGL, shape alone", OpenGLRenderer(SMALLEST, backend="moderngl"), plain=True),
    }


@torch.no_grad()
def _draw(way: Way, size: int, shown: Shown, camera: Camera, threshold: float, normals: bool) -> Float[Tensor, "C H W"]:
    """The image or the normal map. OpenGL draws the thresholded solid, others the continuous grid, as in training."""
    scene, renderer = shown.scene, copy.copy(way.renderer)
    if not way.fixed:
        renderer.image_size = size
    if isinstance(scene, VoxelGrid) and isinstance(renderer, OpenGLRenderer):
        scene = scene.binarize(threshold)
    if way.plain:
        scene = replace(scene, texture=None)
    background = shown.background
    if background is not None:
        background = None if normals else F.interpolate(background, size=(renderer.image_size,) * 2, mode="bilinear")
    drawn = renderer(scene, camera, background)
    if not normals:
        return drawn.image[0]
    if drawn.normals is None:
        raise InputError(f"{way.label} gives no normals; choose OpenGL or the soft rasterizer")
    return drawn.normal_map()[0]


def _present(kind: str, images: Tensor | None) -> Float[Tensor, "C H W"]:
    if images is None:
        raise InputError(f"shapes of this run have no {kind}")
    return images[0]


def _png(image: Float[Tensor, "C H W"]) -> bytes:
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, format="PNG")
    return stream.getvalue()
