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
from renderers.kernels.tiles_numba import TILE, bring_back, bring_samples, list_tiles
from renderers.lighting import Lighting

MOST_BANDS = 512  # rows of tiles in the second pass, at once


class VoxelMarcher:
    """Ray-marches binary voxel grids. The picture is that of marching cubes under 4x multisampling.

    Most of a picture is empty. The processor finds the tiles of 4x4 pixels that cells with surface project to, and between
    which depths; only those are drawn, close-packed, and rays start where the surface may be.

    A first pass sends one ray through each pixel of them. Few pixels (about 2 in 100 of a chair's picture) lie at a
    silhouette or a crease; those are listed and a second pass takes four samples of each. Where a pixel is wider than a
    voxel a centre ray could miss thin parts, and where voxels are cubes nothing warns of an edge: there every pixel takes
    four samples.

    Args:
        context: the process's moderngl context, current at every call.
    """

    def __init__(self, context: Any) -> None:
        self.gl = context
        self.centre = context.program(vertex_shader=glsl.BANDS, fragment_shader=glsl.CENTRE)
        self.samples = context.program(vertex_shader=glsl.BANDS, fragment_shader=glsl.SAMPLES)
        self.resolve = context.program(vertex_shader=glsl.WHOLE, fragment_shader=glsl.RESOLVE)
        self.corner = context.buffer(np.array([0, 0, 1, 0, 0, 1, 1, 1], np.float32).tobytes())
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
        depth_of_grid, across = GridPacker(occupancy.shape[-1], 0).y, -(-size // TILE)
        most = max(1, min(self.most[0] // depth_of_grid, self.most[1] // (across * TILE)))
        picture = np.zeros((2, len(occupancy), size, size), np.float32)
        surface = np.zeros((4, len(occupancy) if geometry else 0, size, size), np.float32)
        surface[3] = np.inf
        for i in range(0, len(occupancy), most):
            part = slice(i, i + most)
            self._draw(
                occupancy[part].detach().numpy()[:, 0],
                threshold,
                camera[part],
                lighting or Lighting(1.0, (), ()),
                cubes,
                picture[:, part],
                surface[:, part],
            )
        image, alpha = torch.from_numpy(picture)[:, :, None]
        if not geometry:
            return image, alpha, None, None
        return image, alpha, torch.from_numpy(surface[:3]).transpose(0, 1), torch.from_numpy(surface[3])[:, None]

    def _draw(
        self,
        volumes: np.ndarray,
        threshold: float,
        camera: Camera,
        lighting: Lighting,
        cubes: bool,
        picture: np.ndarray,
        surface: np.ndarray,
    ) -> None:
        """Write ``(2, B, H, W)``, shade times alpha and alpha; and ``(4, B, H, W)``, normal and depth, or of no grids."""
        grids, voxels, size = len(volumes), volumes.shape[-1], picture.shape[-1]
        sheet = self._sheet(grids, voxels, size, cubes, surface.shape[1] > 0)
        rotations, origin = camera.rotation.numpy(), 1.0 if cubes else 0.5  # cell coordinate of the cube's lower face
        perspective = camera.fov is not None
        view = float(voxels), origin, camera.distance, camera.half_extent, perspective
        views = np.zeros((grids, 5, 4), np.float32)
        views[:, :3, :3] = rotations
        counts, band = [], 0
        for i, volume in enumerate(volumes):
            views[i, 3:, :3] = sheet.packer.pack(volume, threshold, i)
            tiles = sheet.tiles[band:].reshape(-1, 4)
            counts.append(list_tiles(sheet.packer.steps[i], rotations[i], view, size, sheet.ranges, tiles))
            band -= -counts[-1] // sheet.across
        if not any(counts):
            return
        views[:, 3:] = views[:, 3:].clip(1e-3, voxels + 1)  # cells with surface reach half a voxel beyond the grid
        sheet.codes.write(sheet.packer.codes, alignment=1)
        sheet.steps.write(sheet.packer.steps, alignment=1)
        sheet.views.write(views.tobytes())

        pixel = 2 / size * camera.half_extent * (camera.distance + 0.5 if perspective else 1)
        for program in (self.centre, self.samples, self.resolve):
            for unit, name in enumerate(("codes", "steps", "cells", "views", "tiles", "list", "stretches", "samples")):
                _set(program, name, unit)
            _set(program, "depth_of_grid", sheet.packer.y), _set(program, "voxels", voxels)
            _set(program, "origin", origin), _set(program, "pixels", size)
            _set(program, "camera_distance", camera.distance), _set(program, "half_extent", camera.half_extent)
            _set(program, "perspective", perspective), _set(program, "cubes", cubes)
            _set(program, "ambient", lighting.ambient), _set(program, "light_count", len(lighting.intensities))
            _set(program, "lights", _lights(lighting)), _set(program, "step_apart", 2 / voxels)
            _set(program, "everywhere", cubes or pixel * voxels > 1.6)
        for unit, texture in enumerate((sheet.codes, sheet.steps, self.cells, sheet.views)):
            texture.use(unit)
        self.gl.disable(self.gl.DEPTH_TEST | self.gl.CULL_FACE | self.gl.BLEND)
        sheet.draw_tiles(counts)
        sheet.draw_edges(sheet.bring_back(counts, picture, surface), picture, surface)

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
    """Textures and frames for one size of batch, kept from batch to batch.

    Tiles stand close-packed in bands, rows of as many as a picture has; each grid begins a new band. The second pass has
    bands of its own, whose tiles hold four pixels of four samples each.
    """

    def __init__(self, marcher: VoxelMarcher, grids: int, voxels: int, size: int, cubes: bool, geometry: bool) -> None:
        self.gl, self.texture, self.marcher = marcher.gl, marcher._texture, marcher
        self.packer = GridPacker(voxels, grids, cubes)
        self.codes, self.steps = (
            self.gl.texture3d((a.shape[3], a.shape[2], grids * a.shape[1]), 1, dtype="u1", alignment=1)
            for a in (self.packer.codes, self.packer.steps)
        )
        for volume in (self.codes, self.steps):
            volume.filter = self.gl.NEAREST, self.gl.NEAREST
        self.across, self.geometry = -(-size // TILE), geometry
        width, bands = TILE * self.across, grids * self.across
        self.views = self.texture((5, grids), 4, "f4")
        kinds = ((2, "f1"), (2, "f4"), (4, "f4")) if geometry else ((2, "f1"), (2, "f4"))
        self.targets = [self.texture((width, bands * TILE), n, dtype) for n, dtype in kinds]
        self.frame = self.gl.framebuffer(self.targets)
        self.tile_texture = self.texture((self.across, bands), 4, "f4")
        self.tiles = np.zeros((bands, self.across, 4), np.float32)
        self.shades = np.empty((bands * TILE, width, 2), np.uint8)
        self.surface = np.empty((bands * TILE if geometry else 0, width, 4), np.float32)
        self.ranges = np.empty((self.across, self.across, 2), np.float32)
        self.state = np.full((size + 2, size + 2), 255, np.uint8)
        self.marked = np.empty((bands * TILE, width, 2), np.uint16)

        self.list = self.texture((width, MOST_BANDS), 2, "u2")
        self.sampled = self.texture((width, MOST_BANDS * TILE), 4, "f4")
        self.sample_frame = self.gl.framebuffer([self.sampled])
        kinds = ((2, "f1"), (4, "f4")) if geometry else ((2, "f1"),)
        self.resolved = [self.texture((width, MOST_BANDS), n, dtype) for n, dtype in kinds]
        self.list_frame = self.gl.framebuffer(self.resolved)
        self.bands = self.gl.buffer(reserve=8 * bands * TILE, dynamic=True)
        layout = [(marcher.corner, "2f", "corner"), (self.bands, "2f/i", "band")]
        self.tile_quads = self.gl.vertex_array(marcher.centre, layout)
        self.sample_quads = self.gl.vertex_array(marcher.samples, layout)

    def draw_tiles(self, counts: list[int]) -> None:
        """The first pass."""
        bands = self._write_bands(counts)
        self.tile_texture.write(self.tiles[:bands].tobytes(), viewport=(0, 0, self.across, bands))
        self.tile_texture.use(4)
        self._draw(self.frame, self.tile_quads, self.marcher.centre, bands)
        box = 0, 0, self.across * TILE, bands * TILE
        self.frame.read_into(self.shades, box, components=2, alignment=1)
        if self.geometry:
            self.frame.read_into(self.surface, box, components=4, attachment=2, alignment=1, dtype="f4")

    def bring_back(self, counts: list[int], picture: np.ndarray, surface: np.ndarray) -> list[np.ndarray]:
        """Pictures of the first pass; for each grid the places in the sheet, ``(N, 2)``, to sample again."""
        band, begin, lists = 0, 0, []
        marked = self.marked.reshape(-1, 2)
        for i, count in enumerate(counts):
            tiles = self.tiles[band:].reshape(-1, 4)[:count]
            geometry = surface[:, i] if self.geometry else surface[:, :0].reshape(4, 0, 0)
            found = bring_back(
                self.shades, self.surface, tiles, band, self.state, picture[:, i], geometry, marked[begin:]
            )
            lists.append(marked[begin : begin + found])
            begin, band = begin + found, band - (-count // self.across)
        return lists

    def draw_edges(self, lists: list[np.ndarray], picture: np.ndarray, surface: np.ndarray) -> None:
        """The second pass: four samples of the listed pixels, written into the pictures."""
        width = self.across * TILE
        self.list.use(5), self.targets[1].use(6), self.sampled.use(7)
        part: list[tuple[int, np.ndarray]] = []
        free = MOST_BANDS
        for i, listed in enumerate(lists):
            while len(listed):
                fits, listed = listed[: free * width], listed[free * width :]
                part.append((i, fits))
                free += -len(fits) // width
                if free == 0:
                    self._draw_samples(part, picture, surface)
                    part, free = [], MOST_BANDS
        if part:
            self._draw_samples(part, picture, surface)

    def _draw_samples(self, part: list[tuple[int, np.ndarray]], picture: np.ndarray, surface: np.ndarray) -> None:
        width = self.across * TILE
        counts = [0] * (part[-1][0] + 1)
        for i, listed in part:
            counts[i] = -(-len(listed) // TILE)
        bands = self._write_bands(counts)
        padded = np.zeros((bands * width, 2), np.uint16)
        starts, at = [], 0
        for _, listed in part:
            padded[at : at + len(listed)] = listed
            starts.append(at)
            at -= -len(listed) // width * width
        self.list.write(padded.tobytes(), viewport=(0, 0, width, bands))
        self._draw(self.sample_frame, self.sample_quads, self.marcher.samples, bands)
        box = 0, 0, width, bands
        self.list_frame.use()
        self.list_frame.viewport = box
        self.marcher.resolving.render(self.gl.TRIANGLE_STRIP)
        resolved = np.frombuffer(self.list_frame.read(box, components=2, alignment=1), np.uint8).reshape(-1, 2)
        points = np.empty((0, 4), np.float32)
        if self.geometry:
            points = self.list_frame.read(box, components=4, attachment=1, alignment=1, dtype="f4")
            points = np.frombuffer(points, np.float32).reshape(-1, 4)
        for start, (i, listed) in zip(starts, part, strict=True):
            geometry = surface[:, i] if self.geometry else surface[:, :0].reshape(4, 0, 0)
            bring_samples(listed, resolved[start:], points[start:], self.tiles, picture[:, i], geometry)

    def _write_bands(self, counts: list[int]) -> int:
        """For each band of tiles its grid and how many tiles it has; how many bands."""
        full = self.across
        bands = [(i, min(full, n - at)) for i, n in enumerate(counts) for at in range(0, n, full)]
        self.bands.write(np.array(bands, np.float32).tobytes())
        return len(bands)

    def _draw(self, frame: Any, quads: Any, program: Any, bands: int) -> None:
        _set(program, "frame", (self.across, bands))
        frame.use()
        frame.viewport = 0, 0, self.across * TILE, bands * TILE
        quads.render(self.gl.TRIANGLE_STRIP, instances=bands)

    def release(self) -> None:
        frames = self.frame, self.sample_frame, self.list_frame
        textures = self.views, self.codes, self.steps, self.tile_texture, self.list, self.sampled
        quads = self.tile_quads, self.sample_quads
        for thing in (*frames, *quads, self.bands, *self.targets, *self.resolved, *textures):
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
