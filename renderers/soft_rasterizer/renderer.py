"""The exact differentiable renderer of triangle meshes (MeshGAN, section 5)."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from renderers.backend_dispatch import choose_backend
from renderers.base import Renderer, Rendering, Scene, composite, normalize_channels
from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer import shading
from renderers.soft_rasterizer.reference import Fragments, RasterSettings
from utils.errors import check_choice, check_number

FADE_DEPTH = 0.05  # world units that the default slope adds over the whole margin
BACKENDS = {
    "torch": "renderers.soft_rasterizer.torch_backend",
    "numba": "renderers.soft_rasterizer.numba_backend",
    "triton": "renderers.soft_rasterizer.triton_backend",
}


class SoftRasterizer(Renderer):
    """Render triangle meshes so that the image is continuous, with exact gradients, as edges move over pixels.

    Every triangle is extended by a margin in which it fades. The extension is blended over what is behind it: the
    background at a silhouette, another surface at a self-occlusion. Gradients reach vertices, texture, vertex colours,
    normals, background and the camera's angles. :mod:`renderers.soft_rasterizer.reference` specifies the computation.

    Colour is the mesh's texture, sampled bilinearly at perspective-correct UVs for every layer before blending, times its
    vertex colours; a mesh with neither is grey and shaded. Alpha and the image blend all layers. Depth
    is that of the crisp layer: ``inf`` where no triangle covers the pixel's centre. Normals blend like colours and are
    normalized; they are the mesh's own or, if it has none, area-weighted means of the faces' normals.

    Triangles are left out if a corner is closer to the camera's plane than 1e-3 or behind it, if they are degenerate
    (height below 1e-4 pixels), or with ``cull_backfaces`` if they are seen from behind.

    Args:
        image_size: height and width of the image in pixels.
        margin: B, how far triangles are extended, in pixels. 0 is the crisp renderer of the paper's ablation, which has
            no gradient at edges.
        depth_slope: lambda of eq. 9, in world units per pixel: how much the depth of a triangle's extension grows with the
            distance from the triangle. It prevents a tilted surface from blurring itself. An edge fades over the whole
            margin if it is more than ``margin * depth_slope`` in front of what it hides. None is ``0.05 / margin``, so
            that a gap of 0.1 suffices for any margin, on tilted surfaces too.
        cull_backfaces: render only triangles whose corners appear counter-clockwise.
        lighting: shades the colours by the normals. None leaves texture and vertex colours unlit, and shades a grey mesh
            with ``Lighting()``, as OpenGLRenderer does.
        normals: whether to compute the image of normals.
        backend: "torch" (the readable reference, any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the
            fastest for the scene's device and dtype.
        two_sided: whether normals that point away from the viewer are reversed, so that the back of a face is lit like its
            front, as OpenGLRenderer does. Shading is then not continuous where a normal is at right angles to the view.

    Raises:
        InputError: if ``margin`` or ``depth_slope`` is negative or not finite, or the backend is unknown.
    """

    differentiable: ClassVar[bool] = True
    accepts: ClassVar[tuple[type, ...]] = (TriangleMesh,)

    def __init__(
        self,
        image_size: int,
        margin: float = 1.0,
        depth_slope: float | None = None,
        cull_backfaces: bool = False,
        lighting: Lighting | None = None,
        normals: bool = True,
        backend: str = "auto",
        two_sided: bool = False,
    ) -> None:
        super().__init__(image_size)
        check_number("margin", margin, at_least=0)
        if depth_slope is None:
            depth_slope = FADE_DEPTH / margin if margin > 0 else 0.0
        check_number("depth_slope", depth_slope, at_least=0)
        check_choice("backend", backend, ("auto", *BACKENDS))
        self.margin = float(margin)
        self.depth_slope = float(depth_slope)
        self.cull_backfaces = cull_backfaces
        self.lighting = lighting
        self.normals = normals
        self.two_sided = two_sided
        self.backend = backend
        self._checked_faces: tuple[Any, ...] | None = None
        self._exact = True

    def without_waiting(self) -> SoftRasterizer:
        """Return a copy for training on a GPU, whose renders with gradients do not wait for the device.

        A render has room for twice the fragments of the render of the same size before. If it has more, the surplus is
        left out, and the next render logs a warning. The first render, and renders without gradients, are complete.
        """
        renderer = copy.copy(self)
        renderer._exact = False
        return renderer

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, TriangleMesh)
        faces = self._check(scene, camera, background)
        backend = choose_backend(self.backend, BACKENDS, scene.vertices)
        settings = RasterSettings(
            self.image_size, self.margin, self.depth_slope, self.cull_backfaces, camera.fov is not None, self._exact
        )
        screen = backend.project(scene.vertices, *screen_transform(scene.vertices, camera, self.image_size), settings)
        fragments = (
            backend.find_fragments(screen.detach(), faces, settings) if len(screen) else Fragments.none(screen.device)
        )
        weights, barycentric, alpha, depth = backend.evaluate_fragments(screen, faces, fragments, settings)
        normals = self._camera_normals(scene, faces, camera, backend)
        image = self._shade(scene, camera, faces, fragments, weights, barycentric, normals, backend)
        if normals is not None and self.normals:
            normals = backend.splat_attributes(fragments, weights, barycentric, faces, normals, self.image_size)
            normals = normalize_channels(normals)
            if self.two_sided:
                normals = camera.face_viewer(normals)
        image = composite(image, alpha, background)
        return Rendering(image, alpha, depth, normals if self.normals else None)

    def _shade(
        self,
        mesh: TriangleMesh,
        camera: Camera,
        faces: Int[Tensor, "F 3"],
        fragments: Fragments,
        weights: Float[Tensor, " N"],
        barycentric: Float[Tensor, "N 3"],
        normals: Float[Tensor, "B V 3"] | None,
        backend: ModuleType,
    ) -> Float[Tensor, "B C S S"]:
        """Return the image on black, multiplied by alpha."""
        size = self.image_size
        if not self._is_lit(mesh):
            if mesh.texture is not None and mesh.colors is not None:
                color = self._albedo(mesh, faces, fragments, barycentric)
                return shading.splat(weights[:, None] * color, fragments, len(mesh), size)
            if mesh.texture is not None:
                return backend.splat_texture(fragments, weights, barycentric, faces, mesh.uvs, mesh.texture, size)
            assert mesh.colors is not None  # a mesh with neither texture nor colours is lit
            return backend.splat_attributes(fragments, weights, barycentric, faces, mesh.colors, size)

        assert normals is not None
        direction = F.normalize(shading.interpolate(barycentric, faces, fragments, normals, size), dim=-1)
        if self.two_sided:
            direction = camera.face_viewer_at(direction, fragments.pixel, size)
        lighting = self.lighting or Lighting()
        color = lighting.shade(direction[..., None, None])[:, :, 0, 0]
        if mesh.texture is not None or mesh.colors is not None:
            color = color * self._albedo(mesh, faces, fragments, barycentric)
        return shading.splat(weights[:, None] * color, fragments, len(mesh), size)

    def _albedo(
        self, mesh: TriangleMesh, faces: Int[Tensor, "F 3"], fragments: Fragments, barycentric: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N C"] | float:
        """Return texture times vertex colours at the fragments, of those that the mesh has."""
        size = self.image_size
        color: Float[Tensor, "N C"] | float = 1.0
        if mesh.texture is not None:
            assert mesh.uvs is not None
            uv = shading.interpolate(barycentric, faces, fragments, mesh.uvs[None], size)
            color = shading.sample_texture(mesh.texture, uv, fragments.pixel // size**2)
        if mesh.colors is not None:
            color = color * shading.interpolate(barycentric, faces, fragments, mesh.colors, size)
        return color

    def _camera_normals(
        self, mesh: TriangleMesh, faces: Int[Tensor, "F 3"], camera: Camera, backend: ModuleType
    ) -> Float[Tensor, "B V 3"] | None:
        """Return unit vertex normals in the camera frame, or None if they are not needed."""
        if not self.normals and not self._is_lit(mesh):
            return None
        normals = mesh.normals if mesh.normals is not None else backend.vertex_normals(mesh.vertices, faces)
        return normals @ camera.rotation.to(normals).mT

    def _is_lit(self, mesh: TriangleMesh) -> bool:
        return self.lighting is not None or (mesh.texture is None and mesh.colors is None)

    def _check(self, mesh: TriangleMesh, camera: Camera, background: Tensor | None) -> Int[Tensor, "F 3"]:
        """Check the mesh and return its faces as contiguous int32.

        Raises:
            TypeError: if the tensors do not share one dtype, float32 or float64.
            ValueError: if tensors are on several devices, vertices on the CPU are not finite, faces index no vertex, a
                texture has no UVs, or the background has the wrong shape.
        """
        vertices = mesh.vertices
        if vertices.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"vertices must be float32 or float64, got {vertices.dtype}")
        others = {
            "uvs": mesh.uvs,
            "texture": mesh.texture,
            "normals": mesh.normals,
            "colors": mesh.colors,
            "background": background,
        }
        for name, tensor in others.items():
            if tensor is not None and tensor.dtype != vertices.dtype:
                raise TypeError(f"{name} must have the vertices' dtype {vertices.dtype}, got {tensor.dtype}")
        devices = {name: tensor.device for name, tensor in others.items() if tensor is not None}
        for name, device in {**devices, "faces": mesh.faces.device}.items():
            if device != vertices.device:
                raise ValueError(f"{name} must be on the vertices' device {vertices.device}, got {device}")
        if mesh.texture is not None and mesh.uvs is None:
            raise ValueError(f"a mesh with a texture {tuple(mesh.texture.shape)} needs uvs")
        if background is not None:
            channels = next((t.shape[i] for t, i in ((mesh.texture, 1), (mesh.colors, 2)) if t is not None), 1)
            expected = (len(mesh), channels, self.image_size, self.image_size)
            if tuple(background.shape) != expected:
                raise ValueError(f"background must have shape {expected}, got {tuple(background.shape)}")
        # On a GPU the host would wait for the result; there Renderer.forward marks the image instead.
        # A finite sum proves that all vertices are finite, and is cheaper than testing each.
        on_cpu = vertices.device.type == "cpu"
        if on_cpu and not vertices.detach().sum().isfinite() and not vertices.detach().isfinite().all():
            bad = torch.nonzero(~vertices.detach().isfinite().all(-1))
            raise ValueError(
                f"vertices {tuple(vertices.shape)} must be finite; {len(bad)} are not, the first at {bad[0].tolist()}"
            )
        return self._check_faces(mesh.faces, vertices.shape[1])

    def _check_faces(self, faces: Tensor, count: int) -> Int[Tensor, "F 3"]:
        """Check and convert faces.

        On a GPU, where the check waits for the device, the last result is kept: a training run renders the same topology at
        every step. Inference tensors do not count their changes in place.
        """
        cached = faces.device.type != "cpu" and not faces.is_inference()
        key = (faces._version, count) if cached else None
        if cached and self._checked_faces is not None:
            known, known_key, converted = self._checked_faces
            if known is faces and known_key == key:
                return converted
        if faces.dtype in (torch.bool, torch.uint8) or faces.is_complex():
            raise TypeError(f"faces must be integers, got {faces.dtype}")
        if faces.numel():
            low, high = (int(x) for x in faces.aminmax())
            if low < 0 or high >= count:
                raise ValueError(
                    f"faces {tuple(faces.shape)} must index {count} vertices, got indices from {low} to {high}"
                )
        with torch.inference_mode(False):  # autograd cannot save a cached inference tensor in a later training step
            converted = faces.to(torch.int32).contiguous()
        if cached:
            self._checked_faces = (faces, key, converted)
        return converted


def screen_transform(
    vertices: Float[Tensor, "B V 3"], camera: Camera, size: int
) -> tuple[Float[Tensor, "B 3 3"], float]:
    """Return the ``matrix`` and ``distance`` of :func:`renderers.soft_rasterizer.reference.project`."""
    rotation = camera.rotation.to(vertices)
    scale = size / 2 / camera.half_extent
    x, y, z = rotation.unbind(1)
    return torch.stack([scale * x, -scale * y, -z], 1), camera.distance
