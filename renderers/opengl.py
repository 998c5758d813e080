"""The ordinary renderer: OpenGL through pyrender. No gradient passes."""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.errors import InputError
from renderers.lighting import Lighting
from renderers.scenes import VoxelGrid
from renderers.surface import marching_cubes

MAX_SHEET = 4096  # pixels along a sheet's side: within what every OpenGL 3 driver allows
NO_OPENGL = (
    "OpenGL does not work on this machine ({reason}). On Debian or Ubuntu: "
    "apt-get install -y libegl1 libgl1-mesa-dri; elsewhere install a driver with EGL"
)


class OpenGLRenderer(Renderer):
    """Rasterizes the surface of thresholded voxels with two beam lights (IG-GAN, supplement B.1 and B.2).

    The surface is marching cubes of ``occupancy > threshold``. All scenes of a batch are drawn in one pass on one sheet of
    tiles, read back once. OpenGL draws coverage, normals and depth; the light is then analytic (:class:`Lighting`),
    which makes every renderer of this package comparable with it.

    A process has one OpenGL context, made at the first picture and kept: pyrender fails when a second one is closed.

    Args:
        image_size: height and width of the picture in pixels.
        threshold: what counts as occupied.
        lighting: the lights.
    """

    differentiable: ClassVar[bool] = False
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid,)

    def __init__(self, image_size: int, threshold: float = 0.5, lighting: Lighting | None = None) -> None:
        super().__init__(image_size)
        self.threshold = threshold
        self.lighting = lighting or Lighting()

    @torch.no_grad()
    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        solids = (scene.occupancy[:, 0] > self.threshold).cpu().numpy()
        surfaces = [marching_cubes(solid) for solid in solids]
        alpha, normals, depth = draw_surfaces(surfaces, camera.to("cpu"), self.image_size)
        shaded = self.lighting.shade(normals) * alpha
        image, alpha, depth, normals = (x.to(scene.device) for x in (shaded, alpha, depth, normals))
        return Rendering(composite(image, alpha, background), alpha, depth, normals)


def draw_surfaces(
    surfaces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], camera: Camera, size: int
) -> tuple[Float[Tensor, "B 1 S S"], Float[Tensor, "B 3 S S"], Float[Tensor, "B 1 S S"]]:
    """Alpha, unit camera-frame normals and depth of surfaces (vertices, faces, normals), one a camera.

    Every vertex is projected here, exactly as :meth:`Camera.project` says, and moved to its tile; OpenGL sees one mesh
    under one camera. A perspective vertex (x, y, depth) of a tile shifted by s is handed over as
    ``((x + s) depth, (y + s) depth, -depth)``, so OpenGL's own division by depth makes the interpolation exact.
    """
    columns = min(len(surfaces), max(1, MAX_SHEET // size), math.ceil(math.sqrt(len(surfaces))))
    per_sheet = columns * max(1, MAX_SHEET // size)
    parts = [
        _draw_sheet(surfaces[i : i + per_sheet], camera[i : i + per_sheet], size, columns)
        for i in range(0, len(surfaces), per_sheet)
    ]
    alpha, normals, depth = (torch.cat(x) for x in zip(*parts, strict=True))
    return alpha, normals, depth


def _draw_sheet(
    surfaces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], camera: Camera, size: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows = math.ceil(len(surfaces) / columns)
    positions, normals, faces, offset = [], [], [], 0
    for i, (vertices, triangles, vertex_normals) in enumerate(surfaces):
        if len(triangles) == 0:
            continue
        one = camera[i : i + 1]
        row, column = divmod(i, columns)
        x, y, depth = one.project(torch.from_numpy(vertices)[None])[0].unbind(-1)
        x = x + 2 * column + 1 - columns
        y = y + rows - 2 * row - 1
        w = depth if camera.fov is not None else torch.ones_like(depth)
        positions.append(torch.stack([x * w, y * w, -depth], -1).numpy())
        normals.append(vertex_normals @ one.rotation[0].numpy().T)
        faces.append(triangles + offset)
        offset += len(vertices)
    if not positions:
        empty = torch.zeros(len(surfaces), 1, size, size)
        return empty, empty.repeat(1, 3, 1, 1), torch.full_like(empty, math.inf)
    color, depth = _context().draw(
        np.concatenate(positions), np.concatenate(normals), np.concatenate(faces), rows, columns, size, camera
    )
    tiles = torch.from_numpy(color).view(rows, size, columns, size, 4).permute(0, 2, 4, 1, 3)
    tiles = tiles.reshape(rows * columns, 4, size, size)[: len(surfaces)].float() / 255
    z = torch.from_numpy(depth).view(rows, size, columns, size).transpose(1, 2)
    z = z.reshape(rows * columns, 1, size, size)[: len(surfaces)]
    alpha = tiles[:, 3:]
    seen = alpha > 0
    # Colours are (n + 1) / 2 averaged over the covered samples, the empty ones being black.
    direction = tiles[:, :3] * 2 - alpha
    direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return alpha, direction * seen, torch.where(seen, z, math.inf)


class _Context:
    """The process's pyrender context and the objects that stay in its scene."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.pyrender = _import_pyrender()
        try:
            self.offscreen = self.pyrender.OffscreenRenderer(64, 64)
        except Exception as error:  # pyrender, PyOpenGL and EGL each raise their own
            raise InputError(NO_OPENGL.format(reason=f"{type(error).__name__}: {error}".splitlines()[0])) from error

        self.depth_is_hyperbolic = False
        self.depth_is_hyperbolic = self._orthographic_depth_is_hyperbolic()

    def draw(
        self,
        positions: np.ndarray,
        normals: np.ndarray,
        faces: np.ndarray,
        rows: int,
        columns: int,
        size: int,
        camera: Camera,
    ) -> tuple[np.ndarray, np.ndarray]:
        """RGBA bytes ``(H, W, 4)`` with (n + 1) / 2 as colour, and depth in world units (0 where empty)."""
        pyrender = self.pyrender
        near, far = camera.distance - 1.001, camera.distance + 1.001
        if camera.fov is None:
            lens = pyrender.OrthographicCamera(xmag=columns, ymag=rows, znear=near, zfar=far)
        else:
            lens = pyrender.PerspectiveCamera(
                yfov=2 * math.atan(rows), aspectRatio=columns / rows, znear=near, zfar=far
            )
        surface = pyrender.Primitive(
            positions=positions.astype(np.float32),
            color_0=((normals + 1) / 2).astype(np.float32),
            indices=faces,
            material=pyrender.MetallicRoughnessMaterial(alphaMode="OPAQUE"),
        )
        scene = pyrender.Scene(bg_color=(0.0, 0.0, 0.0, 0.0))
        scene.add(pyrender.Mesh([surface]))
        scene.add(lens)
        self.offscreen.viewport_width, self.offscreen.viewport_height = columns * size, rows * size
        flags = pyrender.RenderFlags
        color, depth = self.offscreen.render(scene, flags=flags.FLAT | flags.RGBA | flags.SKIP_CULL_FACES)
        if camera.fov is None and self.depth_is_hyperbolic:
            with np.errstate(divide="ignore"):
                depth = near + far - near * far / depth
        return color.copy(), depth

    def _orthographic_depth_is_hyperbolic(self) -> bool:
        """Whether this pyrender reads an orthographic depth buffer as if it were a perspective one, as 0.1.45 does."""
        camera, depth = Camera.orbit(0.0, 0.0), 1.5
        square = np.array([[-1, -1, -depth], [1, -1, -depth], [1, 1, -depth], [-1, 1, -depth]], np.float32)
        faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        _, measured = self.draw(square, np.zeros_like(square), faces, 1, 1, 8, camera)
        return abs(float(measured[4, 4]) - depth) > 0.01


@lru_cache(maxsize=1)
def _make_context() -> _Context:
    return _Context()


def _context() -> _Context:
    context = _make_context()
    if context.pid != os.getpid():
        raise RuntimeError(
            "this process was forked after OpenGL was first used, and OpenGL would hang in it; start workers before the "
            "first picture or with multiprocessing_context='spawn'"
        )
    return context


def _import_pyrender() -> Any:
    """Import pyrender (0.1.45, pyrender-maintained or pyrender2) for drawing without a window."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if not hasattr(np, "infty"):
        np.infty = np.inf  # noqa: NPY201 (pyrender 0.1.45 still says np.infty, which numpy 2 took away)
    try:
        import pyrender
    except Exception as error:  # a missing libEGL shows as ImportError, AttributeError or OSError
        raise InputError(NO_OPENGL.format(reason=f"{type(error).__name__}: {error}".splitlines()[0])) from error
    return pyrender
