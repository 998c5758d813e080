"""Deferred neural rendering: exact geometry by volume rendering, appearance by a small trainable network."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from renderers.base import Renderer, Rendering, Scene, composite, normalize_channels
from renderers.cameras import Camera
from renderers.scenes import VoxelGrid
from renderers.volume.lit import LitAbsorptionRenderer, soft_normals


class DeferredNeuralRenderer(Renderer):
    """Renders a G-buffer of alpha and normals by volume rendering, and shades it by a trainable 2D network.

    The geometry is that of :class:`renderers.LitAbsorptionRenderer` and has no weights. The network learns the appearance
    from another renderer, whose lights and materials it does not know, as the neural renderer of IG-GAN does::

        image = alpha network(alpha, -sum_i w_i g_i, n)

    The expected colour of coloured grids replaces the first alpha, as in :class:`renderers.LitAbsorptionRenderer`: the
    network learns only the shading.

    Args:
        network: maps the G-buffer ``(B, 7, H, W)`` to an image ``(B, C, H, W)`` in [0, 1]; see
            :class:`networks.ShadingNet`. The channels are alpha, the summed gradient of occupancy and its direction n,
            both in the camera frame (x right, y up, z toward the viewer).
        image_size: height and width of the image in pixels.
        samples, backend: see :class:`renderers.AbsorptionRenderer`.

    Raises:
        InputError: see :class:`renderers.AbsorptionRenderer`.
    """

    differentiable: ClassVar[bool] = True
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid,)
    full_precision: ClassVar[bool] = False
    colored: ClassVar[bool] = True

    def __init__(self, network: nn.Module, image_size: int, samples: int | None = None, backend: str = "auto") -> None:
        super().__init__(image_size)
        self.network = network
        self.geometry = LitAbsorptionRenderer(image_size, samples=samples, backend=backend)

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, VoxelGrid)
        g_buffer, depth = self.g_buffer(scene, camera)
        alpha, normals = g_buffer[:, :1], g_buffer[:, 4:]
        image = self.geometry.albedo(scene, camera, alpha) * self.network(g_buffer).to(alpha.dtype)
        return Rendering(composite(image, alpha, background), alpha, depth, normalize_channels(normals))

    def g_buffer(self, scene: VoxelGrid, camera: Camera) -> tuple[Float[Tensor, "B 7 H W"], Float[Tensor, "B 1 H W"]]:
        """Return the network's input, and the depth."""
        alpha, gradient, depth = self.geometry.surface(scene, camera)
        return torch.cat([alpha, gradient, soft_normals(gradient)], 1), depth
