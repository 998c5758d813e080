"""OpenGL through pyrender: coverage, normals and depth of a batch in one pass, its colours in another."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from renderers.cameras import Camera
from renderers.opengl.atlas import GBuffer, Layout, Surface, atlas_slices, depth_range, project_to_atlas
from renderers.opengl.egl import choose_device, log_renderer, no_opengl, refuse_fork


def draw_surfaces(surfaces: list[Surface], camera: Camera, size: int) -> GBuffer:
    """Draw surfaces, one a camera, ``size`` pixels wide; both sides of every face."""
    parts = [_draw_sheet(surfaces[s], camera[s], size) for s in atlas_slices(surfaces, camera, size)]
    return GBuffer.cat(parts)


def _draw_sheet(surfaces: list[Surface], camera: Camera, size: int) -> GBuffer:
    layout = Layout(len(surfaces), size)
    colored = surfaces[0].colors is not None or surfaces[0].texture is not None
    positions, normals = project_to_atlas(surfaces, camera, layout)
    full = [i for i, surface in enumerate(surfaces) if len(surface.faces)]
    if not full:
        return GBuffer.nothing(len(surfaces), size, colored)
    context = _context()
    offsets = np.cumsum([0] + [len(positions[i]) for i in full])
    joined = context.primitive(
        positions=np.concatenate([positions[i] for i in full]),
        color_0=(np.concatenate([normals[i] for i in full]) + 1) / 2,
        indices=np.concatenate([surfaces[i].faces + o for i, o in zip(full, offsets, strict=False)]),
    )
    sheet, z = context.draw([joined], layout, camera)
    tiles, depth = layout.split(sheet).float() / 255, layout.split(z[..., None])
    alpha = tiles[:, 3:]
    seen = alpha > 0
    # Colours are (n + 1) / 2 averaged over the covered samples, the empty ones being black.
    direction = tiles[:, :3] * 2 - alpha
    length = (direction * direction).sum(1, keepdim=True).sqrt()  # torch.norm over a short dimension is slow
    direction = direction / length.clamp(min=1e-6) * seen
    depth = _centred(depth, direction, camera, context.depth_sample)
    # That sample may be empty where others of the pixel are not: then the nearest of the neighbours' will do.
    near = -max_pool2d(-depth, 3, 1, 1)
    depth = torch.where(depth.isinf(), near, depth)
    color = None
    if colored:
        parts = [context.colored(surfaces[i], positions[i]) for i in full]
        color = layout.split(context.draw(parts, layout, camera)[0]).float()[:, :3] / 255
    return GBuffer(alpha, direction, torch.where(seen, depth, math.inf), color)


def _centred(depth: Tensor, normals: Tensor, camera: Camera, offset: tuple[float, float]) -> Tensor:
    """Depth at the pixel's centre from depth at a sample ``offset`` pixels (right, up) of it, along the surface."""
    pixel = 2 / depth.shape[-1] * camera.half_extent
    facing = normals[:, 2:]
    if camera.fov is not None:
        # The plane n·(x, y, 1) depth = const through a pixel's ray (x, y, -1).
        axis = (torch.arange(depth.shape[-1]) + 0.5) * pixel - camera.half_extent
        facing = facing - normals[:, :1] * axis - normals[:, 1:2] * -axis[:, None]
        pixel = pixel * torch.where(depth.isinf(), 1, depth)  # where that sample is empty, inf has to stay inf
    slope = (normals[:, :1] * offset[0] + normals[:, 1:2] * offset[1]) / facing.abs().clamp(min=0.1) * facing.sign()
    return depth - slope * pixel


class _Context:
    """The process's pyrender context. A process has one: pyrender fails when a second one is closed."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        choose_device()
        self.pyrender = _import_pyrender()
        try:
            self.offscreen = self.pyrender.OffscreenRenderer(64, 64)
            from OpenGL.GL import GL_RENDERER, glGetString

            log_renderer("pyrender", glGetString(GL_RENDERER).decode())
        except Exception as error:  # pyrender, PyOpenGL and EGL each raise their own
            raise no_opengl(error) from error
        self.depth_is_hyperbolic = False
        self.depth_is_hyperbolic = abs(self._plane_depth(0, 0, 4, 4) - 1.5) > 0.01
        # Depth is that of one sample of the pixel, not of its centre; which one is the driver's choice.
        self.depth_sample = tuple(
            round((self._plane_depth(x, y, 4, 3) - 1.5 - 0.125 * (x + y)) / 0.25, 4) for x, y in ((1, 0), (0, 1))
        )

    def primitive(self, **arrays: np.ndarray) -> Any:
        """A pyrender primitive; positions, color_0 and indices as in :class:`pyrender.Primitive`."""
        return self.pyrender.Primitive(
            **{k: v if k == "indices" else np.asarray(v, np.float32) for k, v in arrays.items()},
            material=self.pyrender.MetallicRoughnessMaterial(alphaMode="OPAQUE"),
        )

    def colored(self, surface: Surface, positions: np.ndarray) -> Any:
        """A primitive in the surface's own colours."""
        pyrender = self.pyrender
        if surface.texture is None:
            return self.primitive(positions=positions, color_0=surface.colors, indices=surface.faces)
        gl_linear, gl_clamp = 9729, 33071
        sampler = pyrender.Sampler(magFilter=gl_linear, minFilter=gl_linear, wrapS=gl_clamp, wrapT=gl_clamp)
        texture = pyrender.Texture(source=surface.texture, source_channels="RGB", sampler=sampler)
        return pyrender.Primitive(
            positions=positions.astype(np.float32),
            texcoord_0=np.stack([surface.uvs[:, 0], 1 - surface.uvs[:, 1]], 1).astype(np.float32),  # pyrender's v is up
            indices=surface.faces,
            material=pyrender.MetallicRoughnessMaterial(baseColorTexture=texture, alphaMode="OPAQUE"),
        )

    def draw(self, primitives: list[Any], layout: Layout, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """RGBA bytes ``(H, W, 4)`` without light, and depth ``(H, W)`` in world units, inf where empty."""
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
        """Depth in an 8² image of the plane ``1.5 + (x_slope x + y_slope y)``, x and y in [-1, 1]."""
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
        positions = np.concatenate([corners, -(1.5 + corners @ [[x_slope], [y_slope]])], 1)
        square = self.primitive(
            positions=positions, color_0=np.ones((4, 3)), indices=np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        )
        _, depth = self.draw([square], Layout(1, 8), Camera.orbit(0.0, 0.0))
        return float(depth[row, column])


@lru_cache(maxsize=1)
def _make_context() -> _Context:
    return _Context()


def _context() -> _Context:
    context = _make_context()
    refuse_fork(context.pid)
    return context


def _import_pyrender() -> Any:
    """Import pyrender (0.1.45, pyrender-maintained or pyrender2) for drawing without a window."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if not hasattr(np, "infty"):
        np.infty = np.inf  # noqa: NPY201 (pyrender 0.1.45 still says np.infty, which numpy 2 took away)
    try:
        import pyrender
    except Exception as error:  # a missing libEGL shows as ImportError, AttributeError or OSError
        raise no_opengl(error) from error
    return pyrender
