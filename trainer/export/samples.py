"""Samples of a run as shapes that can be written, measured or rendered as a turntable."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from callbacks.shape_export import write_mesh
from datamodules.shapes import write_binvox
from lightning_modules import MeshGANModule
from lightning_modules.generative import GenerativeModule
from lightning_modules.voxel_generative import VoxelGenerativeModule
from renderers import Camera, InputError, OpenGLRenderer, Renderer, TriangleMesh, VoxelGrid
from renderers.meshes.marching_cubes import marching_cubes
from renderers.opengl.voxel_color import surface_colors
from utils.files import create_directory, save_npz
from visualization.images import to_pil
from visualization.mesh_io import mesh_statistics, write_surface

BATCH = 16  # frames rendered at a time
Format = Literal["glb", "obj", "ply", "stl", "binvox", "npz"]


@dataclass(frozen=True)
class Sample:
    """One generated shape.

    Args:
        number: The sample's number.
        scene: A batch of one: voxels with continuous occupancy, or a textured mesh.
        renderer: The run's renderer.
        fov: Field of view of the run's cameras in degrees; None for orthographic cameras.
        threshold: Occupancy above which a voxel is solid.
        max_faces: Maximum number of faces of a surface of voxels; None for no limit.
    """

    number: int
    scene: VoxelGrid | TriangleMesh
    renderer: Renderer
    fov: float | None
    threshold: float = 0.5
    max_faces: int | None = None

    @cached_property
    def surface(
        self,
    ) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"], Float[np.ndarray, "V 3"] | None]:
        """Vertices in the world frame, faces, and vertex normals if marching cubes has computed them.

        Raises:
            InputError: ``max_faces`` is set for a textured mesh.
        """
        if isinstance(self.scene, TriangleMesh):
            if self.max_faces is not None:
                raise InputError("--decimate is for voxels: it would break the texture of a generated mesh; omit it")
            return _array(self.scene.vertices[0]), _array(self.scene.faces), None
        solid = _array(self.scene.occupancy[0, 0] > self.threshold)
        vertices, faces, normals = marching_cubes(solid)
        if self.max_faces is None or len(faces) <= self.max_faces:
            return vertices, faces, normals
        mesh = trimesh.Trimesh(vertices, faces, process=False).simplify_quadric_decimation(face_count=self.max_faces)
        return mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), None

    @cached_property
    def colors(self) -> Float[np.ndarray, "V C"] | None:
        """Colors of the solid voxels at the surface's vertices; None without colors."""
        if not isinstance(self.scene, VoxelGrid) or self.scene.color is None:
            return None
        solid = _array(self.scene.occupancy[0, 0] > self.threshold)
        return surface_colors(solid, self.scene.color[0].detach().float().cpu(), self.surface[0])

    def report(self) -> dict[str, Any]:
        """Return the sample's number and its :func:`visualization.mesh_io.mesh_statistics`."""
        return {"sample": self.number, **mesh_statistics(*self.surface[:2])}

    def write(self, stem: Path, formats: tuple[Format, ...]) -> list[Path]:
        """Write the shape in each format, in the world frame with y up; return the files.

        Args:
            stem: Path without suffix.
            formats: File formats.

        Raises:
            InputError: ``binvox`` for a mesh.
        """
        create_directory(stem.parent)
        return [self._write(stem.with_suffix(f".{kind}"), kind) for kind in formats]

    def _write(self, path: Path, kind: Format) -> Path:
        vertices, faces, normals = self.surface
        if kind == "npz":
            save_npz(self._arrays(), path)
        elif kind == "binvox":
            if isinstance(self.scene, TriangleMesh):
                raise InputError("binvox is for voxels, and this run generates meshes; remove it from --formats")
            write_binvox(path, _array(self.scene.occupancy[0, 0] > self.threshold))
        elif isinstance(self.scene, TriangleMesh) and (kind == "glb" or kind == "obj"):
            arrays = self._arrays()
            write_mesh(vertices, faces, arrays["uvs"], arrays["texture"], path.with_suffix(""), (kind,))
        else:
            write_surface(path, vertices, faces, normals, self.colors)
        return path

    def _arrays(self) -> dict[str, np.ndarray]:
        scene = self.scene
        if isinstance(scene, VoxelGrid):
            tensors = {"occupancy": scene.occupancy[0, 0], "threshold": torch.tensor(self.threshold)}
            tensors |= {} if scene.color is None else {"color": scene.color[0]}
        else:
            assert scene.uvs is not None and scene.texture is not None  # generated meshes are textured
            tensors = {
                "vertices": scene.vertices[0],
                "faces": scene.faces,
                "uvs": scene.uvs,
                "texture": scene.texture[0],
            }
        return {name: _array(value) for name, value in tensors.items()}

    @torch.no_grad()
    def turntable(self, frames: int, size: int, elevation: float) -> Iterator[Image.Image]:
        """Render ``frames`` views at equal azimuth steps around the shape, on a black background.

        Args:
            frames: Number of views.
            size: Height and width in pixels.
            elevation: Elevation of the camera in degrees.

        Raises:
            InputError: OpenGL does not work on this machine.
        """
        renderer = copy.copy(self.renderer)
        renderer.image_size = size
        scene = self.scene
        if isinstance(scene, VoxelGrid) and isinstance(renderer, OpenGLRenderer):
            scene = scene.binarize(self.threshold)
        for first in range(0, frames, BATCH):
            azimuth = [360 * i / frames for i in range(first, min(first + BATCH, frames))]
            camera = Camera.orbit(azimuth, elevation, self.fov, scene.device)
            for image in renderer(_expand(scene, len(azimuth)), camera).image:
                yield to_pil(image).convert("RGB")


def generate_samples(
    module: GenerativeModule,
    numbers: list[int],
    *,
    truncation: float | None = None,
    threshold: float | None = None,
    max_faces: int | None = None,
) -> Iterator[Sample]:
    """Generate the samples with the given numbers, one at a time; they equal those of ``predict``.

    Args:
        module: A generator from :func:`trainer.runs.loading.load_generator`. Its ``sample_seed`` is used.
        numbers: Numbers of the samples.
        truncation: Psi of MeshGAN's styles; None for the module's own. Latents of other modules are multiplied by it;
            None for 1.
        threshold: Occupancy above which a voxel is solid; None for the module's own.
        max_faces: Maximum number of faces of a surface of voxels.

    Raises:
        InputError: The module does not generate shapes, or a threshold is given for one that generates meshes.
    """
    if not isinstance(module, VoxelGenerativeModule | MeshGANModule):
        raise InputError(f"{type(module).__name__} generates images, not shapes; use predict to write them")
    if isinstance(module, MeshGANModule) and threshold is not None:
        raise InputError("--threshold is for voxels, and this run generates meshes; omit it")
    for number in numbers:
        with torch.no_grad():
            z = module.sample_latents(torch.tensor([number]))
            if isinstance(module, MeshGANModule):
                psi = module.truncation if truncation is None else truncation
                mesh = module.truncated_scenes(z, psi).mesh
                yield Sample(number, mesh, module.renderer, module.views.fov, max_faces=max_faces)
                continue
            shapes = module.shapes(z if truncation is None else truncation * z)
        level = module.threshold if threshold is None else threshold
        yield Sample(number, shapes, module.renderer, module.views.fov, level, max_faces)


def _expand(scene: VoxelGrid | TriangleMesh, count: int) -> VoxelGrid | TriangleMesh:
    """Expand a batch of one to a batch of ``count`` without copying."""

    def expand(x: Tensor) -> Tensor:
        return x.expand(count, *x.shape[1:])

    if isinstance(scene, VoxelGrid):
        return VoxelGrid(expand(scene.occupancy), None if scene.color is None else expand(scene.color))
    texture = None if scene.texture is None else expand(scene.texture)
    return TriangleMesh(expand(scene.vertices), scene.faces, scene.uvs, texture)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
