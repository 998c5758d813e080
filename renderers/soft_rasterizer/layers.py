"""The layers of a soft rasterizer's image, one by one (MeshGAN, section 5 and figure 3 a)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from renderers.base import composite
from renderers.cameras import Camera
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer.reference import (
    CRISP,
    RasterSettings,
    evaluate_fragments,
    find_fragments,
    project,
)
from renderers.soft_rasterizer.renderer import SoftRasterizer, screen_transform
from renderers.soft_rasterizer.shading import splat, splat_texture


@dataclass(frozen=True)
class Layers:
    """The terms of eq. 12: ``alpha_s a_s + (1 - alpha_s) (alpha_c a_c + (1 - alpha_c) background)``.

    Args:
        crisp: ``alpha_c a_c`` ``(B, C, S, S)``, 0 outside the mesh.
        crisp_alpha: ``alpha_c`` ``(B, 1, S, S)``, 0 or 1.
        soft: ``alpha_s a_s`` ``(B, C, S, S)``, the extensions of triangles that nothing hides.
        soft_alpha: ``alpha_s`` ``(B, 1, S, S)`` in [0, 1].
    """

    crisp: Tensor
    crisp_alpha: Tensor
    soft: Tensor
    soft_alpha: Tensor

    def blend(self, background: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C S S"]:
        """Compute eq. 12, which is the image of the renderer."""
        return self.soft + (1 - self.soft_alpha) * composite(self.crisp, self.crisp_alpha, background)


@torch.no_grad()
def render_layers(renderer: SoftRasterizer, mesh: TriangleMesh, camera: Camera) -> Layers:
    """Render the crisp and the soft layer of a textured mesh by the reference implementation, without gradients.

    Raises:
        ValueError: if the mesh has no texture.
    """
    if mesh.texture is None or mesh.uvs is None:
        raise ValueError("layers are those of a textured mesh; pass texture and uvs")
    texture, uvs = mesh.texture, mesh.uvs
    size, faces = renderer.image_size, mesh.faces.int()
    camera = camera.to(mesh.device)

    def layer(margin: float) -> tuple[Tensor, Tensor]:
        settings = RasterSettings(
            size, margin, renderer.depth_slope, renderer.cull_backfaces, perspective=camera.fov is not None
        )
        screen = project(mesh.vertices, *screen_transform(mesh.vertices, camera, size), settings)
        fragments = find_fragments(screen, faces, settings)
        weights, barycentric, _, _ = evaluate_fragments(screen, faces, fragments, settings)
        if margin > 0:  # without the crisp fragment; the soft weights of a pixel sum to alpha_s
            weights = weights.where(fragments.edge != CRISP, 0.0)
        color = splat_texture(fragments, weights, barycentric, faces, uvs, texture, size)
        return color, splat(weights[:, None], fragments, len(mesh), size)

    crisp = layer(0.0)
    soft = layer(renderer.margin) if renderer.margin > 0 else tuple(map(torch.zeros_like, crisp))
    return Layers(*crisp, *soft)
