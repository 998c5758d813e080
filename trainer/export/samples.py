"""Samples of a run, one by one, as shapes that can be written, looked at or turned."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from scipy.ndimage import map_coordinates
from torch import Tensor

from callbacks.shape_export import write_mesh
from datamodules.shapes import write_binvox
from lightning_modules import MeshGANModule
from lightning_modules.generative import GenerativeModule, VoxelGenerativeModule
from renderers import Camera, InputError, OpenGLRenderer, Renderer, TriangleMesh, VoxelGrid
from renderers.meshes.marching_cubes import marching_cubes
from utils.files import write_atomically
from visualization.mesh_io import mesh_statistics, write_surface

FRAME_MILLISECONDS = 40
BATCH = 16  # frames drawn at a time


@dataclass(frozen=True)
class Sample:
    """One generated shape.

    Args:
        number: of the sample.
        scene: a batch of one: voxels with continuous occupancy, or a textured mesh.
        renderer: what the run draws it with.
        fov: degrees, of the run's cameras; None for orthographic ones.
        threshold: what counts as occupied.
        max_faces: of a surface of voxels; None keeps all.
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
        """Vertices in the world frame, faces, and vertex normals where they are known better than from the faces.

        Raises:
            InputError: a textured mesh that is to have fewer faces.
        """
        if isinstance(self.scene, TriangleMesh):
            if self.max_faces is not None:
                raise InputError("--decimate is for voxels: it would tear a generated mesh's texture; leave it out")
            return _array(self.scene.vertices[0]), _array(self.scene.faces), None
        solid = _array(self.scene.occupancy[0, 0] > self.threshold)
        vertices, faces, normals = marching_cubes(solid)
        if self.max_faces is None or len(faces) <= self.max_faces:
            return vertices, faces, normals
        mesh = trimesh.Trimesh(vertices, faces, process=False).simplify_quadric_decimation(face_count=self.max_faces)
        return mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), None

    @cached_property
    def colors(self) -> Float[np.ndarray, "V C"] | None:
        """Of the surface's vertices, where voxels have colour: trilinear between their centres."""
        if not isinstance(self.scene, VoxelGrid) or self.scene.color is None:
            return None
        color = _array(self.scene.color[0].float())
        places = ((self.surface[0] + 0.5) * color.shape[-1] - 0.5)[:, ::-1].T
        colors = np.stack([map_coordinates(c, places, order=1, mode="nearest") for c in color], 1)
        return np.repeat(colors, 3, 1) if colors.shape[1] == 1 else colors

    def report(self) -> dict:
        """See :func:`visualization.mesh_io.mesh_statistics`."""
        return {"sample": self.number, **mesh_statistics(*self.surface[:2])}

    def write(self, stem: Path, formats: tuple[str, ...]) -> list[Path]:
        """The shape in each format at ``stem`` with its suffix; returns the files. World frame, y up.

        Raises:
            InputError: binvox of a mesh.
        """
        stem.parent.mkdir(parents=True, exist_ok=True)
        return [self._write(stem.with_suffix(f".{kind}"), kind) for kind in formats]

    def _write(self, path: Path, kind: str) -> Path:
        vertices, faces, normals = self.surface
        textured = isinstance(self.scene, TriangleMesh)
        if kind == "npz":
            arrays = self._arrays()
            write_atomically(path, lambda file: _save_arrays(file, arrays))
        elif kind == "binvox":
            if textured:
                raise InputError("binvox is for voxels, and this run generates meshes; leave it out of --formats")
            write_binvox(path, _array(self.scene.occupancy[0, 0] > self.threshold), translate=(-0.5, -0.5, -0.5))
        elif textured and kind in ("glb", "obj"):
            texture = _array(self.scene.texture[0])
            write_mesh(vertices, faces, _array(self.scene.uvs), texture, path.with_suffix(""), (kind,))
        else:
            write_surface(path, vertices, faces, normals, self.colors)
        return path

    def _arrays(self) -> dict[str, np.ndarray]:
        if isinstance(self.scene, VoxelGrid):
            arrays = {"occupancy": self.scene.occupancy[0, 0], "threshold": torch.tensor(self.threshold)}
            arrays |= {} if self.scene.color is None else {"color": self.scene.color[0]}
        else:
            mesh = self.scene
            arrays = {"vertices": mesh.vertices[0], "faces": mesh.faces, "uvs": mesh.uvs, "texture": mesh.texture[0]}
        return {name: _array(value) for name, value in arrays.items()}

    @torch.no_grad()
    def turntable(self, frames: int, size: int, elevation: float) -> Iterator[Image.Image]:
        """Images from ``frames`` azimuths once around, before black.

        Args:
            frames: how many.
            size: height and width in pixels.
            elevation: degrees.

        Raises:
            InputError: if OpenGL does not work here.
        """
        renderer = copy.copy(self.renderer)
        renderer.image_size = size
        solid = isinstance(self.scene, VoxelGrid) and isinstance(renderer, OpenGLRenderer)
        scene = self.scene.binarize(self.threshold) if solid else self.scene
        for first in range(0, frames, BATCH):
            azimuth = [360 * i / frames for i in range(first, min(first + BATCH, frames))]
            camera = Camera.orbit(azimuth, elevation, self.fov, scene.device)
            for image in renderer(_repeat(scene, len(azimuth)), camera).image:
                pixels = _array((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0))
                yield Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


def draw_samples(
    module: GenerativeModule,
    numbers: list[int],
    *,
    truncation: float | None = None,
    threshold: float | None = None,
    max_faces: int | None = None,
) -> Iterator[Sample]:
    """The samples of these numbers, those that ``predict`` gives; one at a time, as they are asked for.

    Args:
        module: as :func:`trainer.runs.loading.load_run` gives it; its ``sample_seed`` counts.
        numbers: of the samples.
        truncation: psi of MeshGAN's styles, None for the module's own; other latents are multiplied by it, None for 1.
        threshold: what counts as occupied; None for the module's.
        max_faces: of a surface of voxels.

    Raises:
        InputError: a module without shapes, or a threshold for one without voxels.
    """
    voxels, meshes = isinstance(module, VoxelGenerativeModule), isinstance(module, MeshGANModule)
    if not voxels and not meshes:
        raise InputError(f"{type(module).__name__} generates images, not shapes; predict writes them")
    if meshes and threshold is not None:
        raise InputError("--threshold is for voxels, and this run generates meshes; leave it out")
    for number in numbers:
        with torch.no_grad():
            z = module.sample_latents(torch.tensor([number]))
            if meshes:
                psi = module.truncation if truncation is None else truncation
                mesh = module.truncated_scenes(z, psi).mesh
                yield Sample(number, mesh, module.renderer, module.views.fov, max_faces=max_faces)
                continue
            shapes = module.shapes(z if truncation is None else truncation * z)
        level = module.threshold if threshold is None else threshold
        yield Sample(number, shapes, module.renderer, module.views.fov, level, max_faces)


def _repeat(scene: VoxelGrid | TriangleMesh, count: int) -> VoxelGrid | TriangleMesh:
    """A batch of one as a batch of ``count``, without copying."""

    def repeat(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.expand(count, *x.shape[1:])

    if isinstance(scene, VoxelGrid):
        return VoxelGrid(repeat(scene.occupancy), repeat(scene.color))
    return TriangleMesh(repeat(scene.vertices), scene.faces, scene.uvs, repeat(scene.texture))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # numpy would add a suffix to a path
        np.savez_compressed(file, **arrays)
