"""Lit absorption: exact volume rendering of the surface normal, shaded like OpenGL."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from renderers.backend_dispatch import choose_backend
from renderers.base import Rendering, Scene, composite, normalize_channels
from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.scenes import VoxelGrid
from renderers.volume.renderer import BACKENDS, VolumeRenderer
from utils.errors import check_number


class LitAbsorptionRenderer(VolumeRenderer):
    """Absorption with light: the expected surface normal along the ray, shaded by :class:`renderers.Lighting`.

    With the samples ``v_i`` of occupancy and ``g_i`` of its gradient along a ray, and the weights of emission-absorption::

        w_i   = v_i prod_{j<i} (1 - v_j)          alpha = sum_i w_i = 1 - prod_i (1 - v_i)
        n     = -sum_i w_i g_i / |sum_i w_i g_i|
        image = alpha shade(n)                    depth = distance + sum_i w_i a_i / alpha

    With colour c, the image is ``shade(n) sum_i w_i c_i``: the expected albedo, lit. A grid without colour is white.

    Alpha is that of :class:`renderers.AbsorptionRenderer`. The gradient is interpolated between central differences at the
    voxels (:func:`renderers.volume.reference.occupancy_gradient`), and ``a_i`` is the depth of sample i behind the origin.
    On thresholded grids the image approximates that of :class:`renderers.OpenGLRenderer` with the same lights;
    ``tests/renderers/test_lit.py`` states the error. A loss on the unit ``normals`` has an unbounded gradient where their
    sum nearly vanishes, as at the edge of a thresholded grid; the image, shaded by ``soft`` normals, has not.

    Neither paper has this renderer. It supplies what the volume baselines lack, light, and is an exact proxy for OpenGL.

    Args:
        image_size, samples, reference_size, backend: see :class:`VolumeRenderer`.
        opacity: scales v in alpha and the weights, in (0, 1].
        lighting: the lights; None for the default :class:`renderers.Lighting`.

    Raises:
        InputError: see :class:`VolumeRenderer`; an opacity outside (0, 1].
    """

    law = "absorption"
    colored = True

    def __init__(
        self,
        image_size: int,
        opacity: float = 1.0,
        lighting: Lighting | None = None,
        samples: int | None = None,
        backend: str = "auto",
        reference_size: int | None = None,
    ) -> None:
        check_number("opacity", opacity, above=0, at_most=1)
        super().__init__(image_size, opacity, reference_size, samples, backend)
        self.lighting = lighting or Lighting()

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, VoxelGrid)
        alpha, gradient, depth = self.surface(scene, camera)
        image = self.albedo(scene, camera, alpha) * self.lighting.shade(soft_normals(gradient))
        return Rendering(composite(image, alpha, background), alpha, depth, normalize_channels(gradient))

    def surface(
        self, scene: VoxelGrid, camera: Camera
    ) -> tuple[Float[Tensor, "B 1 H W"], Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
        """Return alpha, ``-sum_i w_i g_i`` in the camera frame, and the depth, inf if alpha is 0."""
        occupancy = scene.occupancy
        if occupancy.dtype not in (torch.float32, torch.float64):
            occupancy = occupancy.float()
        rotation = camera.rotation.to(occupancy)
        settings = self.march_settings(camera, scene.size)
        with torch.autocast(scene.device.type, enabled=False):  # half precision does not hold the coordinates
            alpha, sums = choose_backend(self.backend, BACKENDS, occupancy).march_surface(occupancy, rotation, settings)
            gradient = -torch.einsum("bij,bjhw->bihw", rotation, sums[:, :3])
        # A small alpha has few correct digits. All samples are within 1 of the origin.
        depth = camera.distance + (sums[:, 3:] / alpha.clamp(min=1e-12)).clamp(-1, 1)
        return alpha, gradient, torch.where(alpha > 0, depth, torch.inf)

    def albedo(self, scene: VoxelGrid, camera: Camera, alpha: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
        """Return ``sum_i w_i c_i``, the expected colour times alpha, with the weights of :meth:`surface`; white is alpha."""
        if scene.color is None:
            return alpha
        occupancy, color = scene.occupancy, scene.color.to(alpha.dtype)
        occupancy = occupancy.to(alpha.dtype)
        settings = self.march_settings(camera, scene.size)
        with torch.autocast(scene.device.type, enabled=False):
            backend = choose_backend(self.backend, BACKENDS, occupancy)
            return backend.march(occupancy, color, camera.rotation.to(occupancy), settings)[1]


def soft_normals(gradient: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Normalize the summed gradient of a surface, which is about 1/2 long.

    An epsilon keeps the derivative finite where the gradient vanishes.
    """
    return gradient * (gradient.square().sum(1, keepdim=True) + 1e-4).rsqrt()
