"""A batch of voxel grids drawn by walking rays through them in a shader: no mesh, one upload, at most two passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.opengl.voxel_raycast import shaders as glsl
from renderers.opengl.voxel_raycast.marching_cubes_table import packed_cells
from renderers.opengl.voxel_raycast.ray_culling import BLOCK, RAYS_ACROSS, RayCuller
from renderers.opengl.voxel_raycast.readback import CLEAR, read_back, read_samples
from renderers.scenes import check_range

MOST_BANDS = 512  # rows of blocks in the second pass, at once


class VoxelRaycaster:
    """Ray-marches binary voxel grids. The image is that of marching cubes under 4x multisampling.

    Most of an image is empty. The processor finds the pixels that cells with surface project to, and in which slices of
    depth; only those are drawn, close-packed, and rays visit only those slices.

    A first pass sends one ray through each of them. Where it runs clear, that is the pixel. Where it passes so closely by
    the end of a surface, or meets one so steep, that samples may differ, or stops well before the next pixel's ray, the
    pixel is listed (2 to 3 in 100 of a chair's image), and a second pass takes four samples of each. Where a pixel is
    wider than a voxel a centre ray could miss thin parts, and where voxels are cubes nothing warns of an edge: there every
    pixel takes four samples.

    Args:
        context: the process's moderngl context, current at every call.
    """

    def __init__(self, context: Any) -> None:
        self.gl = context
        self.centre = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.CENTRE)
        self.samples = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.SAMPLES)
        self.resolve = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.RESOLVE)
        self.cells = self._texture((256, 1), 4, "u4", packed_cells().tobytes())
        self.most = int(context.info["GL_MAX_3D_TEXTURE_SIZE"]), int(context.info["GL_MAX_TEXTURE_SIZE"])
        self._sheets: dict[tuple, _Atlas] = {}

    def draw(
        self,
        occupancy: Shaped[Tensor, "B 1 D D D"],
        threshold: float,
        camera: Camera,
        size: int,
        lighting: Lighting | None,
        cubes: bool,
        geometry: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Draw grids of numbers, solid above ``threshold``, or of booleans.

        Returns the shaded image times alpha, alpha, and with ``geometry`` normals and depth (else None), as in
        ``Rendering``.

        Everything on the CPU, without a background. ``lighting=None`` draws white.

        Raises:
            ValueError: float32 outside [0, 1]; of other types the caller has looked at the values.
        """
        depth_of_grid, width = occupancy.shape[-1] + 2, -(-size // BLOCK) * BLOCK
        most = max(1, min(self.most[0] // depth_of_grid, self.most[1] // width))
        shaded = np.zeros((2, len(occupancy), size, size), np.float32)
        surface = np.zeros((4, len(occupancy) if geometry else 0, size, size), np.float32)
        surface[3] = np.inf
        volumes = occupancy.detach().numpy()[:, 0]
        for i in range(0, len(occupancy), most):
            part = slice(i, i + most)
            sheet = self._sheet(len(volumes[part]), occupancy.shape[-1], size, cubes, geometry)
            counts, inside = sheet.lister.list(volumes[part], threshold, camera[part])
            if not inside:
                check_range("occupancy", occupancy)
            if counts.any():
                self._draw(sheet, counts, camera, lighting or Lighting(1.0, (), ()), shaded[:, part], surface[:, part])
        image, alpha = torch.from_numpy(shaded)[:, :, None]
        if not geometry:
            return image, alpha, None, None
        return image, alpha, torch.from_numpy(surface[:3]).transpose(0, 1), torch.from_numpy(surface[3])[:, None]

    def _draw(
        self,
        sheet: _Atlas,
        counts: np.ndarray,
        camera: Camera,
        lighting: Lighting,
        shaded: np.ndarray,
        surface: np.ndarray,
    ) -> None:
        """Write ``(2, B, H, W)``, shade times alpha and alpha; and ``(4, B, H, W)``, normal and depth, or of no grids."""
        voxels, size, cubes = sheet.voxels, sheet.size, sheet.lister.cubes
        perspective = camera.fov is not None
        pixel = 2 / size * camera.half_extent * voxels  # its width in voxels; of a perspective camera, at depth 1
        sheet.write()
        for program in (self.centre, self.samples, self.resolve):
            for unit, name in enumerate(("codes", "cells", "views", "rays", "samples")):
                _set(program, name, unit)
            _set(program, "depth_of_grid", voxels + 2), _set(program, "voxels", voxels)
            _set(program, "origin", 1.0 if cubes else 0.5), _set(program, "pixels", size)
            _set(program, "camera_distance", camera.distance), _set(program, "half_extent", camera.half_extent)
            _set(program, "perspective", perspective), _set(program, "cubes", cubes)
            _set(program, "blocks", sheet.width // BLOCK)
            _set(program, "pixel", pixel), _set(program, "step_apart", 2 / voxels)
            _set(program, "ambient", lighting.ambient), _set(program, "light_count", len(lighting.intensities))
            _set(program, "lights", _lights(lighting))
        for unit, texture in enumerate((sheet.codes, self.cells, sheet.views)):
            texture.use(unit)
        self.gl.disable(self.gl.DEPTH_TEST | self.gl.CULL_FACE | self.gl.BLEND)
        marked = sheet.lister.rays[: counts.sum()]
        if not cubes and pixel * (camera.distance + 0.5 if perspective else 1) <= 1.6:
            sheet.draw_centres(len(marked))
            marked = sheet.read_back(counts, shaded, surface)
        sheet.draw_edges(marked, shaded, surface)

    def _texture(self, size: tuple[int, int], components: int, dtype: str, data: bytes | None = None) -> Any:
        texture = self.gl.texture(size, components, data, dtype=dtype, alignment=1)
        texture.filter = self.gl.NEAREST, self.gl.NEAREST
        return texture

    def _sheet(self, *key: int | bool) -> _Atlas:
        if key not in self._sheets:
            while len(self._sheets) >= 4:  # a training and a validation batch, and their last incomplete ones
                self._sheets.pop(next(iter(self._sheets))).release()
            self._sheets[key] = _Atlas(self, *key)
        return self._sheets[key]


class _Atlas:
    """Textures and frames for one size of batch, kept from batch to batch.

    The rays of all grids stand close-packed in bands, rows of blocks of 4x4 pixels. In the second pass a block is four
    pixels of four samples each.
    """

    def __init__(
        self, marcher: VoxelRaycaster, grids: int, voxels: int, size: int, cubes: bool, geometry: bool
    ) -> None:
        self.gl, self.texture, self.marcher = marcher.gl, marcher._texture, marcher
        self.voxels, self.size, self.geometry = voxels, size, geometry
        self.lister = RayCuller(voxels, grids, size, cubes)
        codes = self.lister.codes
        self.codes = self.gl.texture3d(
            (codes.shape[3], codes.shape[2], grids * codes.shape[1]), 1, dtype="u1", alignment=1
        )
        self.codes.filter = self.gl.NEAREST, self.gl.NEAREST
        width = self.width = -(-size // BLOCK) * BLOCK
        height = grids * width
        self.views = self.texture((4, grids), 4, "f4")
        surface = ((4, "f4"),) if geometry else ()
        self.targets = [self.texture((width, height), n, dtype) for n, dtype in ((4, "f1"), *surface)]
        self.frame = self.gl.framebuffer(self.targets)
        self.ray_texture = self.texture((RAYS_ACROSS, len(self.lister.rays) // RAYS_ACROSS), 4, "i4")
        self.shades = np.empty((height, width, 4), np.uint8)
        self.surface = np.empty((height if geometry else 0, width, 4), np.float32)
        self.state = np.zeros((size + 2, size + 2, 2), np.uint8)
        self.state[..., 0] = CLEAR
        self.marked = np.empty_like(self.lister.rays)

        self.list = self.texture((width, MOST_BANDS), 4, "i4")
        self.sampled = self.texture((width, MOST_BANDS * BLOCK), 4, "f4")
        self.sample_frame = self.gl.framebuffer([self.sampled])
        self.resolved = [self.texture((width, MOST_BANDS), n, dtype) for n, dtype in ((2, "f1"), *surface)]
        self.list_frame = self.gl.framebuffer(self.resolved)
        self.ray_triangle = self.gl.vertex_array(marcher.centre, [])
        self.sample_triangle = self.gl.vertex_array(marcher.samples, [])
        self.list_triangle = self.gl.vertex_array(marcher.resolve, [])

    def write(self) -> None:
        """Hand over what the lister has prepared."""
        self.codes.write(self.lister.codes, alignment=1)
        self.views.write(self.lister.views)

    def draw_centres(self, count: int) -> None:
        """The first pass, of so many rays."""
        rows = -(-count // RAYS_ACROSS)
        self.ray_texture.write(self.lister.rays[: rows * RAYS_ACROSS], viewport=(0, 0, RAYS_ACROSS, rows))
        self.ray_texture.use(3)
        box = 0, 0, self.width, -(-count // (BLOCK * self.width)) * BLOCK
        self._draw(self.frame, self.ray_triangle, box)
        self.frame.read_into(self.shades, box, components=4, alignment=1)
        if self.geometry:
            self.frame.read_into(self.surface, box, components=4, attachment=1, alignment=1, dtype="f4")

    def read_back(self, counts: np.ndarray, shaded: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Images of the first pass; the rays, ``(N, 4)``, of pixels to sample four times."""
        apart = round(255 / 2 * 5 / self.voxels)  # five voxels
        found = read_back(
            self.shades, self.surface, self.lister.rays, counts, apart, self.state, shaded, surface, self.marked
        )
        return self.marked[:found]

    def draw_edges(self, marked: np.ndarray, shaded: np.ndarray, surface: np.ndarray) -> None:
        """The second pass: four samples of the listed pixels, written into the images."""
        most = self.width * MOST_BANDS
        for i in range(0, len(marked), most):
            some = marked[i : i + most]
            bands = -(-len(some) // self.width)
            box = 0, 0, self.width, bands
            padded = np.zeros((bands * self.width, 4), np.int32)
            padded[: len(some)] = some
            self.list.write(padded, viewport=box)
            self.list.use(3), self.sampled.use(4)
            self._draw(self.sample_frame, self.sample_triangle, (0, 0, self.width, bands * BLOCK))
            self._draw(self.list_frame, self.list_triangle, box)
            resolved = np.frombuffer(self.list_frame.read(box, components=2, alignment=1), np.uint8).reshape(-1, 2)
            points = np.empty((0, 4), np.float32)
            if self.geometry:
                points = self.list_frame.read(box, components=4, attachment=1, alignment=1, dtype="f4")
                points = np.frombuffer(points, np.float32).reshape(-1, 4)
            read_samples(some, resolved, points, shaded, surface)

    def _draw(self, frame: Any, triangle: Any, box: tuple[int, int, int, int]) -> None:
        frame.use()
        frame.viewport = box
        triangle.render(self.gl.TRIANGLES, vertices=3)

    def release(self) -> None:
        frames = self.frame, self.sample_frame, self.list_frame
        textures = self.views, self.codes, self.ray_texture, self.list, self.sampled
        triangles = self.ray_triangle, self.sample_triangle, self.list_triangle
        for thing in (*frames, *triangles, *self.targets, *self.resolved, *textures):
            thing.release()


def _lights(lighting: Lighting) -> list[tuple[float, float, float, float]]:
    lights = [(0.0, 0.0, 0.0, 0.0)] * 8
    for i, (direction, intensity) in enumerate(zip(lighting.directions, lighting.intensities, strict=True)):
        length = math.hypot(*direction)
        lights[i] = (*(d / length for d in direction), intensity)  # type: ignore[assignment]
    return lights


def _set(program: Any, name: str, value: object) -> None:
    """Set a uniform unless the compiler has removed it."""
    uniform = program.get(name, None)
    if uniform is not None:
        uniform.value = value
