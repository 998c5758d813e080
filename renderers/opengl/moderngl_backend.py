"""OpenGL through moderngl: the process's context, and meshes rendered to one multisampled atlas."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from renderers.cameras import Camera
from renderers.opengl.atlas import GBuffer, Layout, Surface, atlas_capacity, depth_range, project_to_atlas
from renderers.opengl.egl import check_limit, choose_device, log_renderer, no_opengl, refuse_fork
from renderers.opengl.glsl import load_shader
from renderers.opengl.voxel_raycast.raycaster import VoxelRaycaster
from utils.errors import InputError

GL_CLIP_DISTANCE0 = 0x3000


class Context:
    """The process's moderngl context. It is current only while it renders, so that pyrender can be used as well.

    Attributes:
        raycaster: renders voxel grids; see there.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        device = choose_device()
        try:
            import moderngl
        except ImportError as error:
            raise InputError("backend moderngl requires the package moderngl: pip install moderngl") from error
        settings: dict[str, Any] = {"backend": "egl"} if device is None else {"backend": "egl", "device_index": device}
        try:
            self.gl: Any = moderngl.create_context(standalone=True, require=330, **settings)
        except Exception as error:  # moderngl and glcontext raise various types
            raise no_opengl(error) from error
        log_renderer("moderngl", self.gl.info["GL_RENDERER"])
        self.raycaster = VoxelRaycaster(self.gl)
        self.max_size = int(self.gl.info["GL_MAX_RENDERBUFFER_SIZE"])
        self.max_texture = int(self.gl.info["GL_MAX_TEXTURE_SIZE"])
        self.max_layers = int(self.gl.info["GL_MAX_ARRAY_TEXTURE_LAYERS"])
        self.program = self.gl.program(
            vertex_shader=load_shader("renderers.opengl", "mesh.vert"),
            fragment_shader=load_shader("renderers.opengl", "mesh.frag"),
        )
        self._atlases: dict[tuple[int, int, bool], _Framebuffers] = {}

    def render_surfaces(self, surfaces: list[Surface], camera: Camera, size: int, geometry: bool = True) -> GBuffer:
        """Render surfaces, one per camera, ``size`` pixels wide, both sides of every face.

        Without ``geometry`` there are no normals and no depth, which saves two thirds of the time.

        Raises:
            InputError: the image or a texture is too large for the driver.
        """
        check_limit("image_size", size, self.max_size)
        capacity = atlas_capacity(size)
        if surfaces[0].texture is not None:
            check_limit("the size of a texture", max(surfaces[0].texture.shape[:2]), self.max_texture)
            capacity = min(capacity, self.max_layers)  # the textures are layers of one array
        parts = [slice(i, i + capacity) for i in range(0, len(surfaces), capacity)]
        return GBuffer.cat([self._render_atlas(surfaces[part], camera[part], size, geometry) for part in parts])

    def _render_atlas(self, surfaces: list[Surface], camera: Camera, size: int, geometry: bool) -> GBuffer:
        layout = Layout(len(surfaces), size)
        first = surfaces[0]
        nonempty = [i for i, surface in enumerate(surfaces) if len(surface.faces)]
        if not nonempty:
            return GBuffer.empty(len(surfaces), size, first.colored, geometry)
        positions, normals = project_to_atlas(surfaces, camera, layout)
        counts = [len(p) for p in positions]
        vertices = np.zeros((sum(counts), 11), np.float32)
        vertices[:, :3], vertices[:, 3:6] = np.concatenate(positions), np.concatenate(normals)
        vertices[:, 6:9] = 1.0 if first.colors is None else np.concatenate([s.colors for s in surfaces])
        if first.texture is not None:
            vertices[:, 9:] = np.concatenate([s.uvs for s in surfaces])
        items = np.repeat(np.arange(len(surfaces), dtype=np.int32), counts)
        offsets = np.cumsum([0, *counts])
        faces = np.concatenate([surfaces[i].faces + offsets[i] for i in nonempty]).astype(np.int32)

        gl, program = self.gl, self.program
        vertex_buffer, item_buffer, face_buffer = buffers = [gl.buffer(a.tobytes()) for a in (vertices, items, faces)]
        vertex_array = gl.vertex_array(
            program,
            [
                (vertex_buffer, "3f 3f 3f 2f", "position", "normal", "color", "uv"),
                (item_buffer, "1i", "item"),
            ],
            face_buffer,
        )
        program["depths"], program["tiles"] = depth_range(camera), (layout.columns, layout.rows)
        program["perspective"], program["textured"] = camera.fov is not None, first.texture is not None
        program["textures"] = 0
        texture = None
        if first.texture is not None:
            height, width = first.texture.shape[:2]
            layers = np.ascontiguousarray(np.stack([s.texture for s in surfaces if s.texture is not None]))
            texture = gl.texture_array((width, height, len(surfaces)), 3, layers.tobytes(), alignment=1)
            texture.repeat_x = texture.repeat_y = False
            texture.filter = gl.LINEAR, gl.LINEAR
            texture.use(0)
        framebuffers = self._framebuffers(layout, geometry)
        framebuffers.multisampled.use()
        framebuffers.multisampled.clear()
        gl.enable_only(gl.DEPTH_TEST)
        gl.depth_func = "<"
        for plane in range(4):
            gl.enable_direct(GL_CLIP_DISTANCE0 + plane)
        vertex_array.render()
        for plane in range(4):
            gl.disable_direct(GL_CLIP_DISTANCE0 + plane)
        gl.disable(gl.DEPTH_TEST)
        atlases = framebuffers.read()
        for resource in (texture, vertex_array, *buffers):
            if resource is not None:
                resource.release()

        image = layout.split(atlases[0]).float() / 255
        alpha, color = image[:, 3:], image[:, :3] if first.colored else None
        if not geometry:
            return GBuffer(alpha, None, None, color)
        surface, covered = layout.split(atlases[1]), alpha > 0
        direction = surface[:, :3]
        direction = direction / (direction * direction).sum(1, keepdim=True).sqrt().clamp(min=1e-6)
        # Attributes are evaluated at pixel centres and averaged over the covered samples. At an edge the centre may be
        # outside the triangle, where the depth of a steep plane is far from the mesh: clamp it to the mesh.
        depth = surface[:, 3:] / alpha.clamp(min=0.25)
        for i in nonempty:
            depth[i].clamp_(-float(positions[i][:, 2].max()), -float(positions[i][:, 2].min()))
        depth = torch.where(covered, depth, math.inf)
        return GBuffer(alpha, direction * covered, depth, color)

    def _framebuffers(self, layout: Layout, geometry: bool) -> _Framebuffers:
        key = layout.columns * layout.size, layout.rows * layout.size, geometry
        if key not in self._atlases:
            while len(self._atlases) >= 2:
                self._atlases.pop(next(iter(self._atlases))).release()
            self._atlases[key] = _Framebuffers(self.gl, *key)
        return self._atlases[key]


class _Framebuffers:
    """A 4x multisampled framebuffer of colour, with geometry also normal and depth, and framebuffers to resolve it to."""

    def __init__(self, gl: Any, width: int, height: int, geometry: bool) -> None:
        self.gl, self.size = gl, (width, height)
        formats = ("f1", "f4") if geometry else ("f1",)
        self.formats = formats
        targets = [gl.renderbuffer(self.size, 4, samples=4, dtype=dtype) for dtype in formats]
        depth = gl.depth_renderbuffer(self.size, samples=4)
        resolved = [gl.renderbuffer(self.size, 4, dtype=dtype) for dtype in formats]
        self.multisampled = gl.framebuffer(targets, depth)
        self._sources = [gl.framebuffer([target]) for target in targets]  # a copy reads the first attachment only
        self._resolved = [gl.framebuffer([target]) for target in resolved]
        self._resources = [self.multisampled, *self._sources, *self._resolved, *targets, depth, *resolved]

    def read(self) -> list[np.ndarray]:
        """Resolve the samples; return ``(H, W, 4)`` arrays of bytes and, with geometry, float32, top row first."""
        arrays = []
        for source, target, dtype in zip(self._sources, self._resolved, self.formats, strict=True):
            self.gl.copy_framebuffer(target, source)
            width, height = self.size
            array = np.empty((height, width, 4), np.uint8 if dtype == "f1" else np.float32)
            target.read_into(array, components=4, alignment=1, dtype=dtype)
            arrays.append(np.ascontiguousarray(array[::-1]))  # OpenGL's first row is the bottom one
        return arrays

    def release(self) -> None:
        for resource in self._resources:
            resource.release()


@lru_cache(maxsize=1)
def _create_context() -> Context:
    return Context()


@contextmanager
def context() -> Iterator[Context]:
    """Make the process's context current inside the ``with`` block.

    Raises:
        InputError: if OpenGL does not work on this machine.
        RuntimeError: in a fork of the process that created the context.
    """
    shared = _create_context()
    refuse_fork(shared.pid)
    with shared.gl:
        yield shared
