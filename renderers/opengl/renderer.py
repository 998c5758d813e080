"""The ordinary renderer: OpenGL. No gradient passes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.meshes.marching_cubes import cubes, marching_cubes
from renderers.meshes.vertex_normals import vertex_normals
from renderers.opengl import moderngl_backend, pyrender_backend
from renderers.opengl.atlas import Surface
from renderers.opengl.egl import NO_OPENGL
from renderers.scenes import TriangleMesh, VoxelGrid

__all__ = ["NO_OPENGL", "OpenGLRenderer"]

SURFACES = {"marching_cubes": marching_cubes, "cubes": cubes}


class OpenGLRenderer(Renderer):
    """Draws the surface of thresholded voxels, or meshes, with two beam lights (IG-GAN, supplement B.1 and B.2).

    OpenGL draws coverage, normals, depth and, of meshes, colour; the light is then analytic (:class:`Lighting`), which
    makes every renderer of this package comparable with it. A whole batch goes through in one pass and is read back once.
    Edges are smoothed by 4x multisampling, so ``alpha`` is a multiple of 1/4. Both sides of a face are drawn and lit.

    Colour is the mesh's texture (sampled bilinearly), else its vertices' ``colors``, else white, whose image has one
    channel; the surface's grey is in the light's intensities. Voxels are white.

    Each process has one OpenGL context a backend, made at the first image and kept. It draws on the EGL device that
    ``EGL_DEVICE_ID`` or the rank names. It must be used by the thread that made it, and not after a fork.

    Args:
        image_size: height and width of the image in pixels.
        threshold: what counts as occupied.
        lighting: the lights; None for the default :class:`Lighting`, ``"unlit"`` for colour alone.
        backend: ``"pyrender"`` rasterizes voxels' triangles; ``"moderngl"`` walks rays through the grid in a shader, without
            triangles, and is some fifteen times faster. They agree to 2/255 on average.
        surface: what voxels look like: ``"marching_cubes"`` through the midpoints between solid and empty voxels, with
            smooth normals, or ``"cubes"``, their faces.
        geometry: also give depth and normals; an image alone is faster (moderngl: voxels, and meshes that are unlit).

    Raises:
        InputError: at the first image, if OpenGL does not work on this machine.
    """

    differentiable: ClassVar[bool] = False
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid, TriangleMesh)

    def __init__(
        self,
        image_size: int,
        threshold: float = 0.5,
        lighting: Lighting | Literal["unlit"] | None = None,
        backend: Literal["pyrender", "moderngl"] = "pyrender",
        surface: Literal["marching_cubes", "cubes"] = "marching_cubes",
        geometry: bool = True,
    ) -> None:
        super().__init__(image_size)
        if backend not in ("pyrender", "moderngl"):
            raise ValueError(f"backend must be pyrender or moderngl, got {backend!r}")
        if surface not in SURFACES:
            raise ValueError(f"surface must be one of {', '.join(SURFACES)}, got {surface!r}")
        if isinstance(lighting, str) and lighting != "unlit":
            raise ValueError(f'lighting must be a Lighting, "unlit" or None, got {lighting!r}')
        self.threshold = threshold
        self.lighting = None if lighting == "unlit" else lighting or Lighting()
        self.backend = backend
        self.surface = surface
        self.geometry = geometry

    def check(self, scene: Scene) -> None:
        if isinstance(scene, VoxelGrid) and self.backend == "moderngl" and scene.color is None and _on_hand(scene):
            scene.check(values=False)  # they are looked at while they are packed
        else:
            super().check(scene)

    @torch.no_grad()
    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        device, camera = scene.device, camera.to("cpu")
        if len(scene) == 0:
            raise ValueError("an empty batch has no images")
        if isinstance(scene, VoxelGrid) and self.backend == "moderngl":
            occupancy = scene.occupancy.detach()
            if not _on_hand(scene):
                occupancy = occupancy > self.threshold  # here, so that a quarter of the bytes is brought over
            image, alpha, normals, depth = moderngl_backend.draw_voxels(
                occupancy.cpu(),
                self.threshold,
                camera,
                self.image_size,
                self.lighting,
                self.surface == "cubes",
                self.geometry,
            )
        else:
            if isinstance(scene, VoxelGrid):
                solids = (scene.occupancy[:, 0] > self.threshold).cpu().numpy()
                surfaces = [Surface(*SURFACES[self.surface](solid)) for solid in solids]
            else:
                surfaces = _mesh_surfaces(scene)
            if self.backend == "moderngl":
                geometry = self.geometry or self.lighting is not None  # light needs normals
                drawn = moderngl_backend.draw_surfaces(surfaces, camera, self.image_size, geometry)
            else:
                drawn = pyrender_backend.draw_surfaces(surfaces, camera, self.image_size)
            alpha, depth, normals = drawn.alpha, drawn.depth, drawn.normals
            if isinstance(scene, TriangleMesh) and normals is not None:
                normals = _facing(normals, camera)
            image = alpha if drawn.color is None else drawn.color
            if self.lighting is not None:
                image = image * self.lighting.shade(normals)
        image, alpha = image.to(device), alpha.to(device)
        if not self.geometry:
            return Rendering(composite(image, alpha, background), alpha)
        return Rendering(composite(image, alpha, background), alpha, depth.to(device), normals.to(device))


def _on_hand(scene: VoxelGrid) -> bool:
    """Whether the grids can be packed as they are."""
    return scene.occupancy.dtype in (torch.float32, torch.bool) and scene.device.type == "cpu"


def _mesh_surfaces(mesh: TriangleMesh) -> list[Surface]:
    """The batch item by item, for OpenGL.

    Raises:
        ValueError: non-finite vertices, faces out of range, a texture without uvs, or colours that are not grey or RGB.
    """
    count = mesh.vertices.shape[1]
    if len(mesh.faces) and not 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < count:
        raise ValueError(f"faces must index {count} vertices, got {int(mesh.faces.min())} to {int(mesh.faces.max())}")
    if not torch.isfinite(mesh.vertices).all():
        raise ValueError(f"vertices {tuple(mesh.vertices.shape)} must be finite")
    if mesh.texture is not None and mesh.uvs is None:
        raise ValueError("a mesh with a texture needs uvs")
    normals = (
        (vertex_normals(mesh.vertices, mesh.faces) if mesh.normals is None else mesh.normals)
        .detach()
        .cpu()
        .float()
        .numpy()
    )
    vertices = mesh.vertices.detach().cpu().float().numpy()
    faces = mesh.faces.cpu().numpy().astype(np.int32)
    textures = uvs = colors = None
    if mesh.texture is not None:
        textures = _rgb(mesh.texture, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        uvs = mesh.uvs.detach().cpu().float().numpy()
    elif mesh.colors is not None:
        colors = _rgb(mesh.colors, 2).numpy()
    return [
        Surface(
            vertices[i],
            faces,
            normals[i],
            None if colors is None else colors[i],
            uvs,
            None if textures is None else textures[i],
        )
        for i in range(len(mesh))
    ]


def _rgb(color: Tensor, dim: int) -> Tensor:
    """Colours in [0, 1] with three channels along ``dim``, on the CPU."""
    channels = color.shape[dim]
    if channels not in (1, 3):
        raise ValueError(f"OpenGL draws colours of 1 or 3 channels, got {channels} in {tuple(color.shape)}")
    shape = [3 if i == dim else n for i, n in enumerate(color.shape)]
    return color.detach().cpu().float().clamp(0, 1).expand(shape)


def _facing(normals: Tensor, camera: Camera) -> Tensor:
    """Normals turned to the viewer: a back face shows its other side."""
    toward = normals[:, 2:]
    if camera.fov is not None:
        size = normals.shape[-1]
        axis = ((torch.arange(size) + 0.5) * 2 / size - 1) * camera.half_extent
        toward = toward - normals[:, :1] * axis + normals[:, 1:2] * axis[:, None]
    return torch.where(toward < 0, -normals, normals)
