"""The OpenGL renderer. It is not differentiable."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.meshes.marching_cubes import cubes, marching_cubes
from renderers.meshes.vertex_normals import vertex_normals
from renderers.opengl import moderngl_backend, pyrender_backend
from renderers.opengl.atlas import Surface
from renderers.opengl.voxel_color import surface_colors, visible_colors
from renderers.opengl.voxel_raycast.raycaster import MAX_LIGHTS
from renderers.scenes import TriangleMesh, VoxelGrid
from utils.errors import InputError, check_choice, check_number

SURFACES = {"marching_cubes": marching_cubes, "cubes": cubes}


class OpenGLRenderer(Renderer):
    """Renders the surface of thresholded voxels, or meshes, with two beam lights (IG-GAN, supplement B.1 and B.2).

    OpenGL renders coverage, normals, depth and the colour of meshes. Shading is then analytic (:class:`Lighting`), which
    makes all renderers of this package comparable. A batch is rendered in one pass and read back once. Edges are
    antialiased by 4x multisampling, so ``alpha`` is a multiple of 1/4. Both sides of a face are rendered and lit.

    The colour of a mesh is its texture (sampled bilinearly) times its vertices' ``colors``; white without both.
    The image of white surfaces has one channel; the lights' intensities include the albedo. Voxels are white unless
    ``colored`` is set: the image is then multiplied by the colour of the solid voxels at the surface
    (:func:`renderers.opengl.voxel_color.voxel_colors`). pyrender rasterizes it, moderngl evaluates it at pixel centres.

    Each process has one OpenGL context per backend, created at the first image and kept, on the EGL device that
    ``EGL_DEVICE_ID``, else the process's CUDA card, else the rank selects. Use it only in the thread that created it, and
    not after a fork.

    Args:
        image_size: height and width of the image in pixels.
        threshold: voxels are solid above it; at least 0 and below 1, so that a full voxel is solid.
        lighting: the lights, at most eight with moderngl; None for the default :class:`Lighting`, ``"unlit"`` for plain
            colour.
        backend: ``"pyrender"`` rasterizes the triangles of voxels; ``"moderngl"`` casts rays through the grid in a shader,
            without triangles, and is about twenty times as fast. Their images differ by 2/255 on average.
        surface: surface of voxels: ``"marching_cubes"`` through the midpoints between solid and empty voxels, with smooth
            normals, or ``"cubes"``, the voxels' faces.
        geometry: whether to return depth and normals. Without them moderngl renders voxels and unlit meshes faster.
        colored: whether to render the colours of voxel grids that have them, of 1 or 3 channels; without it they are
            ignored, as for the volume baselines, whose colour is emission.

    Raises:
        InputError: an argument out of range; coloured ``cubes`` with moderngl; at the first image, if OpenGL does not work
            on this machine, or if the image, the grid or a texture is too large for it.
    """

    differentiable: ClassVar[bool] = False
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid, TriangleMesh)
    colored: bool = False

    def __init__(
        self,
        image_size: int,
        threshold: float = 0.5,
        lighting: Lighting | Literal["unlit"] | None = None,
        backend: Literal["pyrender", "moderngl"] = "pyrender",
        surface: Literal["marching_cubes", "cubes"] = "marching_cubes",
        geometry: bool = True,
        colored: bool = False,
    ) -> None:
        super().__init__(image_size)
        check_number("threshold", threshold, at_least=0, below=1)
        check_choice("backend", backend, ("pyrender", "moderngl"))
        check_choice("surface", surface, tuple(SURFACES))
        if isinstance(lighting, str) and lighting != "unlit":
            raise InputError(f'lighting must be a Lighting, "unlit" or None, got {lighting!r}')
        if backend == "moderngl" and isinstance(lighting, Lighting) and len(lighting.intensities) > MAX_LIGHTS:
            raise InputError(
                f"moderngl renders at most {MAX_LIGHTS} lights, got {len(lighting.intensities)}; set backend to pyrender, "
                "or remove lights from lighting"
            )
        self.threshold = threshold
        self.lighting = None if lighting == "unlit" else lighting or Lighting()
        self.backend = backend
        self.surface = surface
        self.geometry = geometry
        if colored and backend == "moderngl" and surface == "cubes":
            raise InputError(
                "moderngl does not render coloured cubes; set backend to pyrender or surface to marching_cubes"
            )
        if colored:  # only then, so that the cache key of white renders does not change
            self.colored = True

    def check(self, scene: Scene) -> None:
        if (
            isinstance(scene, VoxelGrid)
            and self.backend == "moderngl"
            and self._color(scene) is None
            and _packable(scene)
        ):
            scene.check(values=False)  # the ray-caster checks the values while it packs them
        else:
            super().check(scene)

    @torch.no_grad()
    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        device, camera = scene.device, camera.to("cpu")
        if len(scene) == 0:
            raise ValueError("the scene must have at least one item, got batch size 0")
        if isinstance(scene, VoxelGrid) and self.backend == "moderngl":
            occupancy = scene.occupancy.detach()
            if not _packable(scene):
                occupancy = occupancy > self.threshold  # on the scene's device: booleans are smaller to transfer
            color = self._color(scene)
            with moderngl_backend.context() as context:
                image, alpha, normals, depth = context.raycaster.render(
                    occupancy.cpu(),
                    self.threshold,
                    camera,
                    self.image_size,
                    self.lighting,
                    self.surface == "cubes",
                    self.geometry or color is not None,
                )
            if color is not None:
                assert depth is not None
                solid = scene.occupancy.detach() > self.threshold
                image = image.to(device) * visible_colors(solid, color, depth.to(device), camera.to(device))
        else:
            if isinstance(scene, VoxelGrid):
                solids = (scene.occupancy[:, 0] > self.threshold).cpu().numpy()
                surfaces = [Surface(*SURFACES[self.surface](solid)) for solid in solids]
                surfaces = self._with_colors(surfaces, solids, scene)
            else:
                surfaces = _mesh_surfaces(scene)
            if self.backend == "moderngl":
                geometry = self.geometry or self.lighting is not None  # shading needs normals
                with moderngl_backend.context() as context:
                    gbuffer = context.render_surfaces(surfaces, camera, self.image_size, geometry)
            else:
                gbuffer = pyrender_backend.render_surfaces(surfaces, camera, self.image_size)
            alpha, depth, normals = gbuffer.alpha, gbuffer.depth, gbuffer.normals
            if isinstance(scene, TriangleMesh) and normals is not None:
                normals = camera.face_viewer(normals)
            image = alpha if gbuffer.color is None else gbuffer.color
            if isinstance(scene, VoxelGrid) and gbuffer.color is not None:
                assert scene.color is not None
                image = image[:, : scene.color.shape[1]]
            if self.lighting is not None and normals is not None:
                image = image * self.lighting.shade(normals)
        image, alpha = image.to(device), alpha.to(device)
        image = composite(image, alpha, background)
        if not self.geometry or depth is None or normals is None:
            return Rendering(image, alpha)
        return Rendering(image, alpha, depth.to(device), normals.to(device))

    def _color(self, scene: VoxelGrid) -> Tensor | None:
        """Return the colours to render, ``(B, C, D, D, D)`` float32 in [0, 1], or None."""
        if not self.colored or scene.color is None:
            return None
        if scene.color.shape[1] not in (1, 3):
            raise ValueError(f"OpenGL renders colours of 1 or 3 channels, got {scene.color.shape[1]}")
        return scene.color.detach().float().clamp(0, 1)

    def _with_colors(
        self, surfaces: list[Surface], solids: Bool[np.ndarray, "B D D D"], scene: VoxelGrid
    ) -> list[Surface]:
        color = self._color(scene)
        if color is None:
            return surfaces
        color = color.cpu()
        painted = []
        for i, surface in enumerate(surfaces):
            points = surface.vertices
            if self.surface == "cubes":  # the centre of the voxel of each square
                centers = points.reshape(-1, 4, 3).mean(1) - surface.normals[::4] / (2 * scene.size)
                points = centers.repeat(4, 0)
            painted.append(replace(surface, colors=surface_colors(solids[i], color[i], points)))
        return painted


def _packable(scene: VoxelGrid) -> bool:
    """Return whether the ray-caster can read the grids without conversion."""
    return scene.occupancy.dtype in (torch.float32, torch.bool) and scene.device.type == "cpu"


def _mesh_surfaces(mesh: TriangleMesh) -> list[Surface]:
    """Split a batch of meshes into items.

    Raises:
        ValueError: non-finite vertices, faces out of range, a texture without UVs, or colours that are not grey or RGB.
    """
    count = mesh.vertices.shape[1]
    if len(mesh.faces) and not 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < count:
        raise ValueError(f"faces must index {count} vertices, got {int(mesh.faces.min())} to {int(mesh.faces.max())}")
    if not torch.isfinite(mesh.vertices).all():
        raise ValueError(f"vertices {tuple(mesh.vertices.shape)} must be finite")
    normals = vertex_normals(mesh.vertices, mesh.faces) if mesh.normals is None else mesh.normals
    faces = mesh.faces.cpu().numpy().astype(np.int32)
    textures = uvs = colors = None
    if mesh.texture is not None:
        if mesh.uvs is None:
            raise ValueError("a mesh with a texture must have uvs")
        textures = _rgb(mesh.texture, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        uvs = _array(mesh.uvs)
    if mesh.colors is not None:
        colors = _rgb(mesh.colors, 2).numpy()
    return [
        Surface(
            item_vertices,
            faces,
            item_normals,
            None if colors is None else colors[i],
            uvs,
            None if textures is None else textures[i],
        )
        for i, (item_vertices, item_normals) in enumerate(zip(_array(mesh.vertices), _array(normals), strict=True))
    ]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def _rgb(color: Tensor, dim: int) -> Tensor:
    """Return colours clamped to [0, 1] with three channels along ``dim``, on the CPU."""
    channels = color.shape[dim]
    if channels not in (1, 3):
        raise ValueError(f"OpenGL renders colours of 1 or 3 channels, got {channels} in {tuple(color.shape)}")
    shape = [3 if i == dim else n for i, n in enumerate(color.shape)]
    return color.detach().cpu().float().clamp(0, 1).expand(shape)
