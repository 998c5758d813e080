"""OpenGL through moderngl: the process's context, and meshes drawn on one multisampled sheet."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.opengl.atlas import MAX_SHEET, GBuffer, Layout, Surface, depth_range, project_to_atlas
from renderers.opengl.egl import choose_device, log_renderer, no_opengl, refuse_fork
from renderers.opengl.voxel_raycast.raycaster import VoxelRaycaster
from utils.errors import InputError

VERTEX = """
#version 330
uniform vec2 depths;      // near, far
uniform vec2 tiles;       // columns, rows
uniform bool perspective;
in vec3 position;         // x and y on the sheet times w, -depth
in vec3 normal;
in vec3 color;
in vec2 uv;
in int item;
out vec3 n;
out vec3 c;
out vec2 st;
out float depth;
flat out int layer;
void main() {
    depth = -position.z;
    n = normal; c = color; st = uv; layer = item;
    float w = perspective ? depth : 1.0;
    float z = perspective
        ? ((depths.y + depths.x) * depth - 2.0 * depths.y * depths.x) / (depths.y - depths.x)
        : (2.0 * depth - depths.x - depths.y) / (depths.y - depths.x);
    gl_Position = vec4(position.xy / tiles, z, w);
    // What sticks out of its tile is cut off there.
    int columns = int(tiles.x);
    vec2 tile = vec2(2 * (item % columns) + 1 - columns, int(tiles.y) - 1 - 2 * (item / columns));
    vec2 inside = position.xy - tile * w;
    gl_ClipDistance[0] = w - inside.x;
    gl_ClipDistance[1] = w + inside.x;
    gl_ClipDistance[2] = w - inside.y;
    gl_ClipDistance[3] = w + inside.y;
}
"""

FRAGMENT = """
#version 330
uniform sampler2DArray textures;
uniform bool textured;
in vec3 n;
in vec3 c;
in vec2 st;
in float depth;
flat in int layer;
layout(location = 0) out vec4 image;
layout(location = 1) out vec4 surface;
void main() {
    image = vec4(textured ? texture(textures, vec3(st, float(layer))).rgb : c, 1.0);
    surface = vec4(n, depth);
}
"""


class Context:
    """The process's moderngl context. It is current only while it draws, so that pyrender can live beside it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        device = choose_device()
        try:
            import moderngl
        except ImportError as error:
            raise InputError("backend moderngl needs the package moderngl: pip install moderngl") from error
        try:
            settings = {} if device is None else {"device_index": device}
            self.gl = moderngl.create_context(standalone=True, require=330, backend="egl", **settings)
        except Exception as error:  # moderngl and glcontext each raise their own
            raise no_opengl(error) from error
        log_renderer("moderngl", self.gl.info["GL_RENDERER"])
        self.marcher = VoxelRaycaster(self.gl)
        self.program = self.gl.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
        self._sheets: dict[tuple[int, int, bool], tuple] = {}

    def draw_surfaces(self, surfaces: list[Surface], camera: Camera, size: int, geometry: bool) -> GBuffer:
        """Draw surfaces, one a camera, ``size`` pixels wide; both sides of every face.

        Without ``geometry`` there are no normals and no depth, which take two thirds of the time.
        """
        most = max(1, MAX_SHEET // size) ** 2
        parts = [
            self._draw_sheet(surfaces[i : i + most], camera[i : i + most], size, geometry)
            for i in range(0, len(surfaces), most)
        ]
        return GBuffer.cat(parts)

    def _draw_sheet(self, surfaces: list[Surface], camera: Camera, size: int, geometry: bool) -> GBuffer:
        layout = Layout(len(surfaces), size)
        first = surfaces[0]
        colored = first.colors is not None or first.texture is not None
        full = [i for i, surface in enumerate(surfaces) if len(surface.faces)]
        if not full:
            return GBuffer.nothing(len(surfaces), size, colored, geometry)
        positions, normals = project_to_atlas(surfaces, camera, layout)
        counts = [len(p) for p in positions]
        vertices = np.zeros((sum(counts), 11), np.float32)
        vertices[:, :3], vertices[:, 3:6] = np.concatenate(positions), np.concatenate(normals)
        vertices[:, 6:9] = 1.0 if first.colors is None else np.concatenate([s.colors for s in surfaces])
        if first.texture is not None:
            vertices[:, 9:] = np.concatenate([s.uvs for s in surfaces])
        items = np.repeat(np.arange(len(surfaces), dtype=np.int32), counts)
        offsets = np.cumsum([0, *counts])
        faces = np.concatenate([surfaces[i].faces + offsets[i] for i in full]).astype(np.int32)

        gl, program = self.gl, self.program
        made = [gl.buffer(a.tobytes()) for a in (vertices, items, faces)]
        attributes = [(made[0], "3f 3f 3f 2f", "position", "normal", "color", "uv"), (made[1], "1i", "item")]
        made.append(gl.vertex_array(program, attributes, made[2]))
        program["depths"], program["tiles"] = depth_range(camera), (layout.columns, layout.rows)
        program["perspective"], program["textured"] = camera.fov is not None, first.texture is not None
        program["textures"] = 0
        if first.texture is not None:
            height, width = first.texture.shape[:2]
            stack = np.ascontiguousarray(np.stack([s.texture for s in surfaces]))
            texture = gl.texture_array((width, height, len(surfaces)), 3, stack.tobytes(), alignment=1)
            texture.repeat_x = texture.repeat_y = False
            texture.filter = gl.LINEAR, gl.LINEAR
            texture.use(0)
            made.append(texture)
        drawing, resolved = self._frames(layout, geometry)
        drawing.use()
        drawing.clear()
        gl.enable_only(gl.DEPTH_TEST)
        gl.depth_func = "<"
        for plane in range(4):
            gl.enable_direct(0x3000 + plane)  # GL_CLIP_DISTANCE0
        made[3].render()
        for plane in range(4):
            gl.disable_direct(0x3000 + plane)
        gl.disable(gl.DEPTH_TEST)
        sheets = []
        for (source, target), dtype in zip(resolved, (np.uint8, np.float32), strict=False):
            gl.copy_framebuffer(target, source)
            sheet = np.empty((target.height, target.width, 4), dtype)
            target.read_into(sheet, components=4, alignment=1, dtype="f1" if dtype is np.uint8 else "f4")
            sheets.append(np.ascontiguousarray(sheet[::-1]))  # OpenGL's first row is the lowest
        for thing in reversed(made):
            thing.release()
        image = layout.split(sheets[0]).float() / 255
        alpha, color = image[:, 3:], image[:, :3] if colored else None
        if not geometry:
            return GBuffer(alpha, None, None, color)
        surface, seen = layout.split(sheets[1]), alpha > 0
        direction = surface[:, :3]
        direction = direction / (direction * direction).sum(1, keepdim=True).sqrt().clamp(min=1e-6)
        # Attributes are taken at pixels' centres and averaged over the covered samples.
        # Beside an edge the centre lies off the triangle, and a plane seen from its side leads far away from the mesh.
        depth = surface[:, 3:] / alpha.clamp(min=0.25)
        for i in full:
            depth[i].clamp_(-float(positions[i][:, 2].max()), -float(positions[i][:, 2].min()))
        depth = torch.where(seen, depth, math.inf)
        return GBuffer(alpha, direction * seen, depth, color)

    def _frames(self, layout: Layout, geometry: bool) -> tuple:
        """A 4x multisampled frame of colour and with geometry surface, and (source, target) to resolve each of them."""
        size = layout.columns * layout.size, layout.rows * layout.size
        key = *size, geometry
        if key not in self._sheets:
            while len(self._sheets) >= 2:
                for thing in self._sheets.pop(next(iter(self._sheets)))[2]:
                    thing.release()
            gl, dtypes = self.gl, ("f1", "f4") if geometry else ("f1",)
            targets = [gl.renderbuffer(size, 4, samples=4, dtype=dtype) for dtype in dtypes]
            depth = gl.depth_renderbuffer(size, samples=4)
            plain = [gl.renderbuffer(size, 4, dtype=dtype) for dtype in dtypes]
            drawing = gl.framebuffer(targets, depth)
            resolved = [(gl.framebuffer([a]), gl.framebuffer([b])) for a, b in zip(targets, plain, strict=True)]
            everything = [drawing, *(f for pair in resolved for f in pair), *targets, depth, *plain]
            self._sheets[key] = drawing, resolved, everything
        return self._sheets[key][:2]


@lru_cache(maxsize=1)
def _make_context() -> Context:
    return Context()


@contextmanager
def context() -> Iterator[Context]:
    """The process's context, current inside the ``with`` block."""
    made = _make_context()
    refuse_fork(made.pid)
    with made.gl:
        yield made


def draw_voxels(
    occupancy: Tensor,
    threshold: float,
    camera: Camera,
    size: int,
    lighting: Lighting | None,
    cubes: bool,
    geometry: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """See :meth:`renderers.opengl.voxel_raycast.raycaster.VoxelRaycaster.draw`."""
    with context() as made:
        return made.marcher.draw(occupancy, threshold, camera, size, lighting, cubes, geometry)


def draw_surfaces(surfaces: list[Surface], camera: Camera, size: int, geometry: bool = True) -> GBuffer:
    """See :meth:`Context.draw_surfaces`."""
    with context() as made:
        return made.draw_surfaces(surfaces, camera, size, geometry)
