"""OpenGL through pyrender: coverage, normals and depth of a batch in one pass, colours in another."""

from __future__ import annotations

import math
import os
import sys
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from renderers.cameras import Camera
from renderers.opengl.atlas import GBuffer, Layout, Surface, atlas_slices, depth_range, project_to_atlas
from renderers.opengl.egl import check_limit, choose_device, log_renderer, no_opengl, refuse_fork
from utils.errors import InputError


def render_surfaces(surfaces: list[Surface], camera: Camera, size: int) -> GBuffer:
    """Render surfaces, one per camera, ``size`` pixels wide, both sides of every face.

    Raises:
        InputError: the image or a texture is too large for the driver.
    """
    parts = atlas_slices(surfaces, camera, size)
    return GBuffer.cat([_render_atlas(surfaces[part], camera[part], size) for part in parts])


def _render_atlas(surfaces: list[Surface], camera: Camera, size: int) -> GBuffer:
    layout = Layout(len(surfaces), size)
    colored = surfaces[0].colored
    nonempty = [i for i, surface in enumerate(surfaces) if len(surface.faces)]
    if not nonempty:
        return GBuffer.empty(len(surfaces), size, colored)
    shared = context()
    check_limit("image_size", size, shared.max_size)
    positions, normals = project_to_atlas(surfaces, camera, layout)
    offsets = np.cumsum([0] + [len(positions[i]) for i in nonempty])
    joined = shared.primitive(
        positions=np.concatenate([positions[i] for i in nonempty]),
        color_0=(np.concatenate([normals[i] for i in nonempty]) + 1) / 2,
        indices=np.concatenate([surfaces[i].faces + o for i, o in zip(nonempty, offsets, strict=False)]),
    )
    atlas, atlas_depth = shared.render([joined], layout, camera)
    tiles, depth = layout.split(atlas).float() / 255, layout.split(atlas_depth[..., None])
    alpha = tiles[:, 3:]
    covered = alpha > 0
    # Colours are (n + 1) / 2, averaged over the covered samples and black ones.
    direction = tiles[:, :3] * 2 - alpha
    length = (direction * direction).sum(1, keepdim=True).sqrt()  # torch.norm over a short dimension is slow
    direction = direction / length.clamp(min=1e-6) * covered
    depth = _depth_at_centre(depth, direction, camera, shared.depth_sample)
    # The sample with the depth may be empty where others of the pixel are not: use the nearest depth of the neighbours.
    neighbours = -max_pool2d(-depth, 3, 1, 1)
    depth = torch.where(depth.isinf(), neighbours, depth)
    color = None
    if colored:
        parts = [shared.colored_primitive(surfaces[i], positions[i]) for i in nonempty]
        color = layout.split(shared.render(parts, layout, camera)[0]).float()[:, :3] / 255
    return GBuffer(alpha, direction, torch.where(covered, depth, math.inf), color)


def _depth_at_centre(depth: Tensor, normals: Tensor, camera: Camera, offset: tuple[float, float]) -> Tensor:
    """Extrapolate depth along the surface to the pixel's centre from a sample ``offset`` pixels (right, up) of it."""
    pixel_size: Tensor | float = 2 / depth.shape[-1] * camera.half_extent
    facing = normals[:, 2:]
    if camera.fov is not None:
        # The plane n·(x, y, -1) depth = const along a pixel's ray (x, y, -1).
        axis = (torch.arange(depth.shape[-1]) + 0.5) * pixel_size - camera.half_extent
        facing = facing - normals[:, :1] * axis - normals[:, 1:2] * -axis[:, None]
        pixel_size = pixel_size * torch.where(depth.isinf(), 1, depth)  # avoid inf - inf; an infinite depth stays so
    slope = (normals[:, :1] * offset[0] + normals[:, 1:2] * offset[1]) / facing.abs().clamp(min=0.1) * facing.sign()
    return depth - slope * pixel_size


class _Context:
    """The process's pyrender context. There is only one, since closing a second one breaks the first.

    Attributes:
        offscreen: :class:`pyrender.OffscreenRenderer`.
        depth_sample: offset (right, up) in pixels from a pixel's centre to the sample that pyrender's depth is of.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        choose_device()
        self.pyrender = _import_pyrender()
        try:
            self.offscreen = self.pyrender.OffscreenRenderer(64, 64)
            from OpenGL.GL import (
                GL_MAX_RENDERBUFFER_SIZE,
                GL_MAX_TEXTURE_SIZE,
                GL_RENDERER,
                glGetIntegerv,
                glGetString,
            )

            log_renderer("pyrender", glGetString(GL_RENDERER).decode())
            self.max_size = int(glGetIntegerv(GL_MAX_RENDERBUFFER_SIZE))
            self.max_texture = int(glGetIntegerv(GL_MAX_TEXTURE_SIZE))
        except Exception as error:  # pyrender, PyOpenGL and EGL raise various types
            raise no_opengl(error) from error
        self.depth_is_hyperbolic = False
        self.depth_is_hyperbolic = abs(self._plane_depth(0, 0, 4, 4) - 1.5) > 0.01
        # pyrender's depth is that of one of a pixel's samples, which depends on the driver: find it by rendering planes.
        x_offset, y_offset = (
            round((self._plane_depth(x, y, 4, 3) - 1.5 - 0.125 * (x + y)) / 0.25, 4) for x, y in ((1, 0), (0, 1))
        )
        self.depth_sample = x_offset, y_offset

    def primitive(self, **arrays: np.ndarray) -> Any:
        """Create a primitive from ``positions``, ``color_0`` and ``indices``, see :class:`pyrender.Primitive`."""
        return self.pyrender.Primitive(
            **{k: v if k == "indices" else np.asarray(v, np.float32) for k, v in arrays.items()},
            material=self.pyrender.MetallicRoughnessMaterial(alphaMode="OPAQUE"),
        )

    def colored_primitive(self, surface: Surface, positions: np.ndarray) -> Any:
        """Create a primitive with the surface's colours or texture."""
        pyrender = self.pyrender
        if surface.texture is None or surface.uvs is None:
            assert surface.colors is not None
            return self.primitive(positions=positions, color_0=surface.colors, indices=surface.faces)
        _check_textures()
        check_limit("the size of a texture", max(surface.texture.shape[:2]), self.max_texture)
        gl_linear, gl_clamp = 9729, 33071
        sampler = pyrender.Sampler(magFilter=gl_linear, minFilter=gl_linear, wrapS=gl_clamp, wrapT=gl_clamp)
        # Four channels: OpenGL expects rows to be multiples of four bytes long, and pyrender does not pad them.
        pixels = np.pad(surface.texture, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        texture = pyrender.Texture(source=pixels, source_channels="RGBA", sampler=sampler)
        return pyrender.Primitive(
            positions=positions.astype(np.float32),
            color_0=None if surface.colors is None else surface.colors.astype(np.float32),
            texcoord_0=np.stack([surface.uvs[:, 0], 1 - surface.uvs[:, 1]], 1).astype(
                np.float32
            ),  # pyrender's v points up
            indices=surface.faces,
            material=pyrender.MetallicRoughnessMaterial(baseColorTexture=texture, alphaMode="OPAQUE"),
        )

    def render(self, primitives: list[Any], layout: Layout, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return unlit RGBA bytes ``(H, W, 4)`` and depth ``(H, W)`` in world units, inf on the background."""
        pyrender, (near, far) = self.pyrender, depth_range(camera)
        if camera.fov is None:
            lens = pyrender.OrthographicCamera(xmag=layout.columns, ymag=layout.rows, znear=near, zfar=far)
        else:
            ratio = layout.columns / layout.rows
            lens = pyrender.PerspectiveCamera(yfov=2 * math.atan(layout.rows), aspectRatio=ratio, znear=near, zfar=far)
        scene = pyrender.Scene(bg_color=(0.0, 0.0, 0.0, 0.0))
        scene.add(pyrender.Mesh(primitives))
        scene.add(lens)
        self.offscreen.viewport_width = layout.columns * layout.size
        self.offscreen.viewport_height = layout.rows * layout.size
        flags = pyrender.RenderFlags
        color, depth = self.offscreen.render(scene, flags=flags.FLAT | flags.RGBA | flags.SKIP_CULL_FACES)
        depth = np.where(depth > 0, depth, np.float32(np.inf))
        if camera.fov is None and self.depth_is_hyperbolic:
            depth = np.where(np.isinf(depth), depth, near + far - near * far / depth).astype(np.float32)
        return color.copy(), depth

    def _plane_depth(self, x_slope: float, y_slope: float, column: int, row: int) -> float:
        """Return a pixel's depth in an 8² image of the plane ``1.5 + x_slope x + y_slope y``, x and y in [-1, 1]."""
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
        positions = np.concatenate([corners, -(1.5 + corners @ [[x_slope], [y_slope]])], 1)
        square = self.primitive(
            positions=positions, color_0=np.ones((4, 3)), indices=np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        )
        _, depth = self.render([square], Layout(1, 8), Camera.orbit(0.0, 0.0))
        return float(depth[row, column])


@lru_cache(maxsize=1)
def _create_context() -> _Context:
    return _Context()


def context() -> _Context:
    """Return the process's context.

    Raises:
        InputError: if OpenGL does not work on this machine.
        RuntimeError: in a fork of the process that created the context.
    """
    shared = _create_context()
    refuse_fork(shared.pid)
    return shared


def _check_textures() -> None:
    """Check that PyOpenGL can create textures: version 3.1.0, which pyrender pins, cannot with Python 3.12 or newer.

    Raises:
        InputError: It cannot.
    """
    if sys.version_info >= (3, 12) and version("PyOpenGL") == "3.1.0":
        raise InputError(
            "PyOpenGL 3.1.0 cannot create textures with Python 3.12 or newer; run pip install --no-deps PyOpenGL==3.1.10, "
            "or use backend moderngl"
        )


def _import_pyrender() -> Any:
    """Import pyrender (0.1.45, pyrender-maintained or pyrender2) for offscreen rendering."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if not hasattr(np, "infty"):
        setattr(np, "infty", np.inf)  # noqa: B010 (pyrender 0.1.45 uses np.infty, which numpy 2 removed)
    try:
        import pyrender
    except Exception as error:  # a missing libEGL raises ImportError, AttributeError or OSError
        raise no_opengl(error) from error
    return pyrender
