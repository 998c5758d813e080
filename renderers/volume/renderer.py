"""The volume renderers: alpha along rays through a voxel grid, with exact gradients."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from renderers.backend_dispatch import choose_backend
from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.scenes import VoxelGrid
from renderers.volume.reference import Rays
from utils.errors import InputError

BACKENDS = {
    "torch": "renderers.volume.reference",
    "numba": "renderers.volume.numba_backend",
    "triton": "renderers.volume.triton_backend",
}


class VolumeRenderer(Renderer):
    """What the volume renderers share: a ray through each pixel's centre, sampled at equal steps of depth.

    Samples are trilinear between the centres of voxels, zero outside of the grid. At the natural size, an image twice as
    wide as the grid (64³ in 128², IG-GAN's embedding), pixels are as wide as voxels, and so are the steps. No larger volume
    is made on the way: what an image costs in memory is its grid and its pixels. Gradients reach occupancy, colour and
    the camera's angles. What is computed, precisely: :mod:`renderers.volume.reference`.

    Args:
        image_size: height and width of the image in pixels.
        samples: S, samples along each ray over the depths [-1, 1] around the origin; None is 2 D, one a voxel. The law
            is per sample: twice the samples see twice the matter.
        backend: "torch" (the readable reference, any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the
            fastest of them for the scene's device and dtype.
    """

    differentiable: ClassVar[bool] = True
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid,)
    law: ClassVar[Literal["absorption", "visual_hull"]]
    colored: ClassVar[bool] = False

    def __init__(self, image_size: int, density: float, samples: int | None, backend: str) -> None:
        super().__init__(image_size)
        if samples is not None and samples < 1:
            raise InputError(f"samples must be positive, got {samples}")
        if backend != "auto" and backend not in BACKENDS:
            raise InputError(f"backend must be auto, {', '.join(BACKENDS)}, got {backend!r}")
        self.density, self.samples, self.backend = float(density), samples, backend

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, VoxelGrid)
        occupancy, color = scene.occupancy, scene.color if self.colored else None
        if occupancy.dtype not in (torch.float32, torch.float64):
            occupancy = occupancy.float()
        if color is not None:
            color = color.to(occupancy.dtype)
        rays = Rays.of(camera, self.image_size, self.samples or 2 * scene.size)
        rotation = camera.rotation.to(occupancy)
        with torch.autocast(scene.device.type, enabled=False):  # half precision does not hold the coordinates
            kernel = choose_backend(self.backend, BACKENDS, occupancy)
            alpha, image = kernel.march(occupancy, color, rotation, rays, self.law, self.density)
        return Rendering(composite(image, alpha, background), alpha)


class AbsorptionRenderer(VolumeRenderer):
    """Absorption only: ``alpha = 1 - prod_i (1 - v_i)`` along the ray (IG-GAN, supplement C), white on black.

    Args:
        image_size, samples, backend: see :class:`VolumeRenderer`.
        opacity: scales v. 1 is the paper's form, in which one full voxel is opaque. PlatonicGAN's released code has
            20 / 64 = 0.3125 for its 64³ grid: one full voxel gives 0.31, four 0.78.
    """

    law = "absorption"

    def __init__(
        self, image_size: int, opacity: float = 1.0, samples: int | None = None, backend: str = "auto"
    ) -> None:
        super().__init__(image_size, check_opacity(opacity), samples, backend)


class EmissionAbsorptionRenderer(VolumeRenderer):
    """Emission and absorption: ``image = sum_i c_i v_i prod_{j<i} (1 - v_j)``, alpha as in absorption.

    Each sample emits its colour c, dimmed by the samples before it (IG-GAN, supplement C; PlatonicGAN). The supplement
    prints the product up to and with j = i and divides by the sum of all weights (plus epsilon); there an opaque voxel
    has weight 0. Without j = i the weights sum to alpha by themselves: no division, no epsilon, and for emission 1 the
    image is that of :class:`AbsorptionRenderer` exactly.

    Args:
        image_size, samples, backend: see :class:`VolumeRenderer`.
        opacity: see :class:`AbsorptionRenderer`. PlatonicGAN's released code takes 1024 samples through its grid, each
            of opacity 100 / 1024: here ``opacity=100 / 1024, samples=2048``, as the samples go through twice the depth.

    A grid without colour emits white. Colour is interpolated between voxels as occupancy is, but goes on beyond the grid's
    faces, so that it does not darken there.
    """

    law = "absorption"
    colored = True

    def __init__(
        self, image_size: int, opacity: float = 1.0, samples: int | None = None, backend: str = "auto"
    ) -> None:
        super().__init__(image_size, check_opacity(opacity), samples, backend)


class VisualHullRenderer(VolumeRenderer):
    """The smooth silhouette: ``alpha = 1 - exp(-tau sum_i v_i)`` along the ray (PrGAN), white on black.

    Args:
        image_size, samples, backend: see :class:`VolumeRenderer`.
        tau: density. PrGAN's released code has 0.5 here and divides its generator's output by 0.5, which is 1.
    """

    law = "visual_hull"

    def __init__(self, image_size: int, tau: float = 1.0, samples: int | None = None, backend: str = "auto") -> None:
        if not tau > 0:
            raise InputError(f"tau must be positive, got {tau}")
        super().__init__(image_size, tau, samples, backend)


def check_opacity(opacity: float) -> float:
    """opacity itself.

    Raises:
        InputError: if it is not in (0, 1].
    """
    if not 0 < opacity <= 1:
        raise InputError(f"opacity must lie in (0, 1], got {opacity}")
    return opacity
