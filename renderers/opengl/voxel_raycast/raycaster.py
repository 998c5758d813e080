"""Renders a batch of voxel grids by casting rays in a shader: no mesh, one upload, at most two passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.opengl.egl import check_limit
from renderers.opengl.glsl import load_shader
from renderers.opengl.voxel_raycast.marching_cubes_table import packed_cells
from renderers.opengl.voxel_raycast.ray_culling import BLOCK, RAYS_PER_ROW, RayCuller
from renderers.opengl.voxel_raycast.readback import UNAMBIGUOUS, read_back
from renderers.scenes import check_range

MAX_LIGHTS = 8  # as in shade.glsl
MAX_CELLS = 4096  # that a ray visits, as in raycast.glsl
MAX_BANDS = 512  # bands of the second pass that are rendered at once
TEXTURE_UNITS = {"codes": 0, "cells": 1, "views": 2, "rays": 3, "samples": 4}


class VoxelRaycaster:
    """Casts rays through binary voxel grids. The image is that of marching cubes with 4x multisampling.

    Most of an image is background. The CPU finds the pixels and depth slices that cells with surface project to
    (:class:`RayCuller`). Only those pixels are rendered, packed densely, and rays visit only those slices.

    The first pass casts one ray through the centre of each listed pixel. An unambiguous ray determines the pixel. If it
    passes close to the edge of a surface, meets a steep one, or ends well before the ray of a neighbouring pixel, the
    samples of the pixel may differ: it is marked (2 to 3 % of the pixels of a chair's image), and the second pass takes
    four samples. Centre rays can miss thin parts if a pixel is wider than a voxel, and they do not detect the edges of
    ``cubes``. In these two cases all listed pixels take four samples.

    Args:
        context: the process's moderngl context, which must be current at every call.
    """

    def __init__(self, context: Any) -> None:
        self.gl = context
        self.centre = self._program("shade.glsl", "raycast.glsl", "centre.frag")
        self.samples = self._program("raycast.glsl", "samples.frag")
        self.resolve = self._program("shade.glsl", "resolve.frag")
        self.cells = self.texture((256, 1), 4, "u4", packed_cells().tobytes())
        self.max_depth = int(context.info["GL_MAX_3D_TEXTURE_SIZE"])
        self.max_height = int(context.info["GL_MAX_TEXTURE_SIZE"])
        self._atlases: dict[tuple[int, int, int, bool, bool], _Atlas] = {}

    def _program(self, *fragment: str) -> Any:
        package = "renderers.opengl.voxel_raycast"
        return self.gl.program(
            vertex_shader=load_shader(package, "fullscreen.vert"), fragment_shader=load_shader(package, *fragment)
        )

    def texture(self, size: tuple[int, int], components: int, dtype: str, data: bytes | None = None) -> Any:
        """Create a 2D texture without interpolation."""
        texture = self.gl.texture(size, components, data, dtype=dtype, alignment=1)
        texture.filter = self.gl.NEAREST, self.gl.NEAREST
        return texture

    def render(
        self,
        occupancy: Shaped[Tensor, "B 1 D D D"],
        threshold: float,
        camera: Camera,
        size: int,
        lighting: Lighting | None,
        cubes: bool,
        geometry: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Render grids of float32, solid above ``threshold``, or of booleans.

        ``lighting=None`` renders plain white.

        Returns:
            The shaded image times alpha, alpha, and with ``geometry`` normals and depth (else None), as in
            :class:`renderers.Rendering`, on the CPU and on a black background.

        Raises:
            ValueError: float32 values outside [0, 1]. The caller must have checked values of other dtypes.
            InputError: the grids or the image are too large.
        """
        count, voxels = len(occupancy), occupancy.shape[-1]
        capacity = self._capacity(voxels, size)
        shaded = np.zeros((2, count, size, size), np.float32)
        surface = np.zeros((4, count if geometry else 0, size, size), np.float32)
        surface[3] = np.inf
        volumes = occupancy.detach().numpy()[:, 0]
        for i in range(0, count, capacity):
            part = slice(i, i + capacity)
            atlas = self._atlas(len(volumes[part]), voxels, size, cubes, geometry)
            counts, in_range = atlas.culler.cull(volumes[part], threshold, camera[part])
            if not in_range:
                check_range("occupancy", occupancy)
            if counts.any():
                lights = lighting or Lighting(1.0, (), ())
                self._render_atlas(atlas, counts, camera, lights, shaded[:, part], surface[:, part])
        image, alpha = torch.from_numpy(shaded)[:, :, None]
        if not geometry:
            return image, alpha, None, None
        return image, alpha, torch.from_numpy(surface[:3]).transpose(0, 1), torch.from_numpy(surface[3])[:, None]

    def _capacity(self, voxels: int, size: int) -> int:
        """Return how many grids fit one atlas: at least 1.

        Raises:
            InputError: the grids or the image are too large.
        """
        width = _atlas_width(size)
        largest = min(self.max_height, math.isqrt(self.max_height * RAYS_PER_ROW)) // BLOCK * BLOCK
        check_limit("image_size", size, largest)
        # A ray leaves at most three times as many cells as the grid has along an axis.
        check_limit("the size of a voxel grid", voxels, min(self.max_depth, MAX_CELLS // 3) - 2)
        rays = self.max_height * RAYS_PER_ROW // width**2
        return min(self.max_depth // (voxels + 2), self.max_height // width, rays)

    def _render_atlas(
        self,
        atlas: _Atlas,
        counts: np.ndarray,
        camera: Camera,
        lighting: Lighting,
        shaded: np.ndarray,
        surface: np.ndarray,
    ) -> None:
        """Write shade times alpha and alpha to ``shaded``, ``(2, B, H, W)``, and normal and depth to ``surface``.

        ``surface`` is ``(4, B, H, W)`` with geometry, else ``(4, 0, H, W)``.
        """
        voxels, size, cubes = atlas.voxels, atlas.size, atlas.culler.cubes
        perspective = camera.fov is not None
        pixel_size = 2 / size * camera.half_extent * voxels  # in voxels; of a perspective camera, at depth 1
        uniforms = {
            **TEXTURE_UNITS,
            "depth_of_grid": voxels + 2,
            "voxels": voxels,
            "origin": 1.0 if cubes else 0.5,
            "pixels": size,
            "camera_distance": camera.distance,
            "half_extent": camera.half_extent,
            "perspective": perspective,
            "cubes": cubes,
            "blocks": atlas.width // BLOCK,
            "pixel_size": pixel_size,
            "edge_step": 2 / voxels,
            "ambient": lighting.ambient,
            "light_count": len(lighting.intensities),
            "lights": _light_vectors(lighting),
        }
        for program in (self.centre, self.samples, self.resolve):
            for name, value in uniforms.items():
                if (uniform := program.get(name, None)) is not None:
                    uniform.value = value
        atlas.upload()
        for name, texture in (("codes", atlas.codes), ("cells", self.cells), ("views", atlas.views)):
            texture.use(TEXTURE_UNITS[name])
        self.gl.disable(self.gl.DEPTH_TEST | self.gl.CULL_FACE | self.gl.BLEND)
        marked = atlas.culler.rays[: counts.sum()]
        if not cubes and pixel_size * (camera.distance + 0.5 if perspective else 1) <= 1.6:
            marked = atlas.render_centres(counts, shaded, surface)
        atlas.render_samples(marked, shaded, surface)

    def _atlas(self, grids: int, voxels: int, size: int, cubes: bool, geometry: bool) -> _Atlas:
        key = grids, voxels, size, cubes, geometry
        if key not in self._atlases:
            while len(self._atlases) >= 4:  # training and validation batches, and the last incomplete ones
                self._atlases.pop(next(iter(self._atlases))).release()
            self._atlases[key] = _Atlas(self, *key)
        return self._atlases[key]


class _Atlas:
    """Textures and framebuffers for one size of batch, kept between batches.

    The rays of all grids are packed densely in bands, which are rows of blocks of 4x4 fragments. In the first pass a
    block is sixteen pixels, in the second pass four pixels of four samples each.
    """

    def __init__(
        self, raycaster: VoxelRaycaster, grids: int, voxels: int, size: int, cubes: bool, geometry: bool
    ) -> None:
        self.gl = gl = raycaster.gl
        self.voxels, self.size, self.geometry = voxels, size, geometry
        self.culler = RayCuller(voxels, grids, size, cubes)
        _, depth, height, width = self.culler.codes.shape
        self.codes = gl.texture3d((width, height, grids * depth), 1, dtype="u1", alignment=1)
        self.codes.filter = gl.NEAREST, gl.NEAREST
        self.views = raycaster.texture((4, grids), 4, "f4")
        self.width = width = _atlas_width(size)
        surface = ((4, "f4"),) if geometry else ()

        # First pass.
        height = grids * width
        self.rays = raycaster.texture((RAYS_PER_ROW, len(self.culler.rays) // RAYS_PER_ROW), 4, "i4")
        centre_targets = [raycaster.texture((width, height), n, dtype) for n, dtype in ((4, "f1"), *surface)]
        self.centre_frame = gl.framebuffer(centre_targets)
        self.centre_triangle = gl.vertex_array(raycaster.centre, [])
        self.shades = np.empty((height, width, 4), np.uint8)
        self.surface = np.empty((height if geometry else 0, width, 4), np.float32)
        self.state = np.zeros((size + 2, size + 2, 2), np.uint8)
        self.state[..., 0] = UNAMBIGUOUS
        self.marked = np.empty_like(self.culler.rays)

        # Second pass.
        self.marked_rays = raycaster.texture((width, MAX_BANDS), 4, "i4")
        self.samples = raycaster.texture((width, MAX_BANDS * BLOCK), 4, "f4")
        self.sample_frame = gl.framebuffer([self.samples])
        self.sample_triangle = gl.vertex_array(raycaster.samples, [])
        resolve_targets = [raycaster.texture((width, MAX_BANDS), n, dtype) for n, dtype in ((2, "f1"), *surface)]
        self.resolve_frame = gl.framebuffer(resolve_targets)
        self.resolve_triangle = gl.vertex_array(raycaster.resolve, [])

        frames = self.centre_frame, self.sample_frame, self.resolve_frame
        triangles = self.centre_triangle, self.sample_triangle, self.resolve_triangle
        textures = self.views, self.codes, self.rays, self.marked_rays, self.samples
        self._resources = [*frames, *triangles, *centre_targets, *resolve_targets, *textures]

    def upload(self) -> None:
        """Upload the culler's cells and views."""
        self.codes.write(self.culler.codes, alignment=1)
        self.views.write(self.culler.views)

    def render_centres(self, counts: np.ndarray, shaded: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """First pass: write unambiguous pixels to the images; return the rays ``(N, 4)`` of marked pixels."""
        count = int(counts.sum())
        rows = -(-count // RAYS_PER_ROW)
        self.rays.write(self.culler.rays[: rows * RAYS_PER_ROW], viewport=(0, 0, RAYS_PER_ROW, rows))
        self.rays.use(TEXTURE_UNITS["rays"])
        box = 0, 0, self.width, -(-count // (BLOCK * self.width)) * BLOCK
        self._render(self.centre_frame, self.centre_triangle, box)
        self.centre_frame.read_into(self.shades, box, components=4, alignment=1)
        if self.geometry:
            self.centre_frame.read_into(self.surface, box, components=4, attachment=1, alignment=1, dtype="f4")
        edge_step = round(255 / 2 * 5 / self.voxels)  # five voxels, in the first pass's units of depth
        marked_count = read_back(
            self.shades,
            self.surface,
            self.culler.rays,
            counts,
            edge_step,
            self.state,
            shaded,
            surface,
            self.marked,
        )
        return self.marked[:marked_count]

    def render_samples(self, rays: np.ndarray, shaded: np.ndarray, surface: np.ndarray) -> None:
        """Second pass: write the pixels of rays ``(N, 4)``, from four samples each, to the images."""
        capacity = self.width * MAX_BANDS
        for i in range(0, len(rays), capacity):
            part = rays[i : i + capacity]
            count, bands = len(part), -(-len(part) // self.width)
            box = 0, 0, self.width, bands
            padded = np.zeros((bands * self.width, 4), np.int32)
            padded[:count] = part
            self.marked_rays.write(padded, viewport=box)
            self.marked_rays.use(TEXTURE_UNITS["rays"])
            self.samples.use(TEXTURE_UNITS["samples"])
            self._render(self.sample_frame, self.sample_triangle, (0, 0, self.width, bands * BLOCK))
            self._render(self.resolve_frame, self.resolve_triangle, box)
            x, y, grid = part[:, 0] & 0xFFFF, part[:, 0] >> 16, part[:, 1]
            pixels = np.frombuffer(self.resolve_frame.read(box, components=2, alignment=1), np.uint8)
            pixels = pixels.reshape(-1, 2)[:count].T
            shaded[:, grid, y, x] = pixels * np.float32(1 / 255)
            if self.geometry:
                points = self.resolve_frame.read(box, components=4, attachment=1, alignment=1, dtype="f4")
                points = np.frombuffer(points, np.float32).reshape(-1, 4)[:count].T
                surface[:3, grid, y, x] = points[:3]
                surface[3, grid, y, x] = np.where(pixels[1] > 0, points[3], np.inf)

    def _render(self, frame: Any, triangle: Any, box: tuple[int, int, int, int]) -> None:
        frame.use()
        frame.viewport = box
        triangle.render(self.gl.TRIANGLES, vertices=3)

    def release(self) -> None:
        for resource in self._resources:
            resource.release()


def _atlas_width(size: int) -> int:
    """Return the image size rounded up to whole blocks."""
    return -(-size // BLOCK) * BLOCK


def _light_vectors(lighting: Lighting) -> list[tuple[float, float, float, float]]:
    """Return the shader's ``MAX_LIGHTS`` lights: unit direction and intensity, 0 for unused ones."""
    vectors = [(0.0, 0.0, 0.0, 0.0)] * MAX_LIGHTS
    for i, ((x, y, z), intensity) in enumerate(zip(lighting.directions, lighting.intensities, strict=True)):
        length = math.hypot(x, y, z)
        vectors[i] = x / length, y / length, z / length, intensity
    return vectors
