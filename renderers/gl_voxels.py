"""A batch of voxel grids drawn by walking rays through them in a shader: no mesh, one upload, at most two passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from renderers import gl_voxels_glsl as glsl
from renderers.cameras import Camera
from renderers.gl_cells import packed_cells
from renderers.gl_pack import GridPacker
from renderers.lighting import Lighting

LIST_WIDTH = 512  # marked pixels in a row of the second pass


class VoxelMarcher:
    """Ray-marches binary voxel grids. The picture is that of marching cubes under 4x multisampling.

    A first pass sends one ray through each pixel. Few pixels (about 3 in 100 of a chair's picture) lie at a silhouette or a
    crease; those are listed and a second pass takes four samples of each. Where a pixel is wider than a voxel a centre ray
    could miss thin parts, and where voxels are cubes nothing warns of an edge: there every pixel takes four samples.

    Args:
        context: the process's moderngl context, current at every call.
    """

    def __init__(self, context: Any) -> None:
        self.gl = context
        self.centre = context.program(vertex_shader=glsl.TILES, fragment_shader=glsl.CENTRE)
        self.samples = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.SAMPLES)
        self.resolve = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.RESOLVE)
        self.corner = context.buffer(np.array([0, 0, 1, 0, 0, 1, 1, 1], np.float32).tobytes())
        self.tiles = context.vertex_array(self.centre, [(self.corner, "2f", "corner")])
        self.sampling = context.vertex_array(self.samples, [(self.corner, "2f", "corner")])
        self.resolving = context.vertex_array(self.resolve, [(self.corner, "2f", "corner")])
        self.cells = self._texture((256, 1), 4, "u4", packed_cells().tobytes())
        self.most = int(context.info["GL_MAX_3D_TEXTURE_SIZE"]), int(context.info["GL_MAX_TEXTURE_SIZE"])
        self._sheets: dict[tuple, _Sheet] = {}

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
        """
        depth_of_grid = GridPacker(occupancy.shape[-1], 0).y
        most = max(1, min(self.most[0] // depth_of_grid, self.most[1] // size))
        image, alpha = (torch.empty(len(occupancy), 1, size, size) for _ in range(2))
        normals = torch.empty(len(occupancy), 3, size, size) if geometry else None
        depth = torch.empty(len(occupancy), 1, size, size) if geometry else None
        for i in range(0, len(occupancy), most):
            part = slice(i, i + most)
            picture, surface = self._draw(
                occupancy[part], threshold, camera[part], size, lighting or Lighting(1.0, (), ()), cubes, geometry
            )
            for channel, target in ((0, image), (1, alpha)):
                np.multiply(picture[..., channel], np.float32(1 / 255), out=target[part, 0].numpy())
            if surface is not None:
                normals[part] = torch.from_numpy(surface[..., :3]).permute(0, 3, 1, 2)
                depth[part, 0] = torch.from_numpy(np.where(picture[..., 1] > 0, surface[..., 3], np.float32(np.inf)))
        return image, alpha, normals, depth

    def _draw(
        self,
        occupancy: Tensor,
        threshold: float,
        camera: Camera,
        size: int,
        lighting: Lighting,
        cubes: bool,
        geometry: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Bytes ``(B, H, W, 2)``, shade times alpha and alpha; and floats ``(B, H, W, 4)``, normal and depth, or None."""
        grids, voxels = len(occupancy), occupancy.shape[-1]
        sheet = self._sheet(grids, voxels, size, cubes, geometry)
        volumes = occupancy.detach().numpy()[:, 0]
        boxes = np.stack([sheet.packer.pack(volume, threshold, i) for i, volume in enumerate(volumes)])
        sheet.codes.write(sheet.packer.codes, alignment=1)
        sheet.steps.write(sheet.packer.steps, alignment=1)
        origin = 1.0 if cubes else 0.5  # cell coordinate of the cube's lower face
        boxes = boxes.clip(1e-3, voxels + 1)  # all cells with surface, which reach half a voxel beyond the grid
        sheet.views.write(_views(boxes, camera, voxels, origin, size).tobytes())

        pixel = 2 / size * camera.half_extent * (camera.distance + 0.5 if camera.fov is not None else 1)
        everywhere = cubes or pixel * voxels > 1.6
        for program in (self.centre, self.samples, self.resolve):
            _set(program, "codes", 0), _set(program, "steps", 1), _set(program, "cells", 2), _set(program, "views", 3)
            _set(program, "depth_of_grid", sheet.packer.y), _set(program, "voxels", voxels)
            _set(program, "origin", origin), _set(program, "pixels", size)
            _set(program, "camera_distance", camera.distance), _set(program, "half_extent", camera.half_extent)
            _set(program, "perspective", camera.fov is not None), _set(program, "cubes", cubes)
            _set(program, "ambient", lighting.ambient), _set(program, "light_count", len(lighting.intensities))
            _set(program, "lights", _lights(lighting))
        _set(self.resolve, "step_apart", 2 / voxels)
        _set(self.centre, "grids", grids), _set(self.centre, "everywhere", everywhere)
        _set(self.samples, "list", 4), _set(self.samples, "stretches", 5), _set(self.resolve, "samples", 6)
        for unit, texture in enumerate((sheet.codes, sheet.steps, self.cells, sheet.views)):
            texture.use(unit)
        sheet.frame.use()
        sheet.frame.clear()
        self.gl.disable(self.gl.DEPTH_TEST | self.gl.CULL_FACE | self.gl.BLEND)
        self.tiles.render(self.gl.TRIANGLE_STRIP, instances=grids)
        sheet.frame.read_into(sheet.picture, components=2, alignment=1)
        picture, surface = sheet.picture.view(np.uint16), sheet.surface
        if surface is not None:
            sheet.frame.read_into(surface, components=4, attachment=2, alignment=1, dtype="f4")
        marked = np.flatnonzero(_marked(picture.reshape(grids, size, size)))
        if len(marked):
            self._draw_edges(sheet, marked.astype(np.uint32), picture, surface)
        surface = None if surface is None else surface.reshape(grids, size, size, 4)
        return sheet.picture.reshape(grids, size, size, 2), surface

    def _draw_edges(self, sheet: _Sheet, marked: np.ndarray, picture: np.ndarray, surface: np.ndarray | None) -> None:
        """Four samples of the marked pixels, written into ``picture`` and ``surface``."""
        rows = -(-len(marked) // LIST_WIDTH)
        sheet.grow_list(rows)
        padded = np.empty(rows * LIST_WIDTH, np.uint32)
        padded[: len(marked)], padded[len(marked) :] = marked, marked[-1]
        sheet.list.write(padded.tobytes(), viewport=(0, 0, LIST_WIDTH, rows))
        sheet.list.use(4)
        sheet.stretches.use(5)
        box = (0, 0, LIST_WIDTH, rows)
        sheet.sample_frame.use()
        sheet.sample_frame.viewport = (0, 0, 4 * LIST_WIDTH, rows)
        self.sampling.render(self.gl.TRIANGLE_STRIP)
        sheet.sampled.use(6)
        sheet.list_frame.use()
        sheet.list_frame.viewport = box
        self.resolving.render(self.gl.TRIANGLE_STRIP)
        sampled = np.frombuffer(sheet.list_frame.read(box, components=2, alignment=1), np.uint16)
        picture[marked] = sampled[: len(marked)]
        if surface is not None:
            points = sheet.list_frame.read(box, components=4, attachment=1, alignment=1, dtype="f4")
            surface[marked] = np.frombuffer(points, np.float32).reshape(-1, 4)[: len(marked)]

    def _texture(self, size: tuple[int, int], components: int, dtype: str, data: bytes | None = None) -> Any:
        texture = self.gl.texture(size, components, data, dtype=dtype, alignment=1)
        texture.filter = self.gl.NEAREST, self.gl.NEAREST
        return texture

    def _sheet(self, *key: int | bool) -> _Sheet:
        if key not in self._sheets:
            while len(self._sheets) >= 4:  # a training and a validation batch, and their last incomplete ones
                self._sheets.pop(next(iter(self._sheets))).release()
            self._sheets[key] = _Sheet(self, *key)
        return self._sheets[key]


class _Sheet:
    """Textures and frames for one size of batch, kept from batch to batch."""

    def __init__(self, marcher: VoxelMarcher, grids: int, voxels: int, size: int, cubes: bool, geometry: bool) -> None:
        self.gl, self.texture = marcher.gl, marcher._texture
        self.packer = GridPacker(voxels, grids, cubes)
        self.codes, self.steps = (
            self.gl.texture3d((a.shape[3], a.shape[2], grids * a.shape[1]), 1, dtype="u1", alignment=1)
            for a in (self.packer.codes, self.packer.steps)
        )
        for volume in (self.codes, self.steps):
            volume.filter = self.gl.NEAREST, self.gl.NEAREST
        self.views = self.texture((6, grids), 4, "f4")
        kinds = ((2, "f1"), (2, "f4"), (4, "f4")) if geometry else ((2, "f1"), (2, "f4"))
        self.targets = [self.texture((size, size * grids), n, dtype) for n, dtype in kinds]
        self.stretches = self.targets[1]
        self.picture = np.empty(grids * size * size * 2, np.uint8)
        self.surface = np.empty((grids * size * size, 4), np.float32) if geometry else None
        self.frame = self.gl.framebuffer(self.targets)
        self.list = self.sampled = self.sample_frame = self.list_frame = None
        self.list_targets: list[Any] = []

    def grow_list(self, rows: int) -> None:
        """Room for this many rows of marked pixels."""
        if self.list is None or self.list.height < rows:
            self._release_list()
            rows = 1 << (rows - 1).bit_length()
            self.list = self.texture((LIST_WIDTH, rows), 1, "u4")
            self.sampled = self.texture((4 * LIST_WIDTH, rows), 4, "f4")
            self.sample_frame = self.gl.framebuffer([self.sampled])
            self.list_targets = [self.texture((LIST_WIDTH, rows), n, dtype) for n, dtype in ((2, "f1"), (4, "f4"))]
            self.list_frame = self.gl.framebuffer(self.list_targets)

    def _release_list(self) -> None:
        for thing in (self.list_frame, *self.list_targets, self.sample_frame, self.sampled, self.list):
            if thing is not None:
                thing.release()

    def release(self) -> None:
        self._release_list()
        for thing in (self.frame, *self.targets, self.views, self.codes, self.steps):
            thing.release()


def _views(boxes: np.ndarray, camera: Camera, voxels: int, origin: float, size: int) -> np.ndarray:
    """``(B, 6, 4)``: the camera's axes, the box around the solid in cells, and its window in the frame, for each grid."""
    views = np.zeros((len(boxes), 6, 4), np.float32)
    views[:, :3, :3] = camera.rotation.numpy()
    views[:, 3:5, :3] = boxes
    choose = np.array([[b & 1, b >> 1 & 1, b >> 2 & 1] for b in range(8)])
    corners = np.take_along_axis(boxes, choose[None], axis=1)  # (B, 8, 3)
    seen = camera.project(torch.from_numpy(((corners - origin) / voxels - 0.5).astype(np.float32))).numpy()
    views[:, 5, :2] = (seen[..., :2].min(1) - 2 / size).clip(-1, 1)
    views[:, 5, 2:] = (seen[..., :2].max(1) + 2 / size).clip(-1, 1)
    views[(boxes[:, 1] <= boxes[:, 0]).any(1), 5] = -1  # an empty grid has an empty window
    return views


def _marked(picture: np.ndarray) -> np.ndarray:
    """Pixels to sample four times: those whose ray passed close by a surface, and the clear ones beside any that are not."""
    clear, missed = picture >= 0xFF00, picture < 0x0100
    inside = clear.copy()
    inside[:, 1:] &= clear[:, :-1]
    inside[:, :-1] &= clear[:, 1:]
    inside[:, :, 1:] &= clear[:, :, :-1]
    inside[:, :, :-1] &= clear[:, :, 1:]
    return ~(inside | missed)


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
