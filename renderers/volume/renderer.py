"""Differentiable volume renderers of voxel grids."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from renderers.backend_dispatch import choose_backend
from renderers.base import Renderer, Rendering, Scene, composite
from renderers.cameras import Camera
from renderers.scenes import VoxelGrid
from renderers.volume.reference import MarchSettings, Rays
from utils.errors import InputError, check_choice, check_number

BACKENDS = {
    "torch": "renderers.volume.reference",
    "numba": "renderers.volume.numba_backend",
    "triton": "renderers.volume.triton_backend",
}


class VolumeRenderer(Renderer):
    """Base class of the volume renderers: one ray through each pixel's centre, sampled at equal steps of depth.

    Samples are trilinear between voxel centres, and zero outside the grid. At the natural size, an image twice as wide as
    the grid (64³ in 128², IG-GAN's embedding), pixels and steps are as wide as voxels. No intermediate volume is
    allocated: memory grows with the grid and the pixels only. Gradients reach occupancy, colour and the camera's angles.
    :mod:`renderers.volume.reference` specifies the computation.

    Args:
        image_size: height and width of the image in pixels.
        density: scales occupancy or its sum, see :class:`renderers.volume.reference.MarchSettings`.
        reference_size: the grid size D that ``density`` is for. Other grids get ``density reference_size / D``, so that
            the same solid is as dense at any resolution. None uses ``density`` for all grids.
        samples: S, samples along each ray over the depths [-1, 1] around the origin; None is 2 D, one per voxel. Opacity
            is per sample: doubling the samples doubles the matter along a ray.
        backend: "torch" (the readable reference, any device), "numba" (CPU), "triton" (CUDA, float32), or "auto": the
            fastest for the scene's device and dtype.

    Raises:
        InputError: if ``samples`` or ``reference_size`` is not positive or the backend is unknown.
    """

    differentiable: ClassVar[bool] = True
    accepts: ClassVar[tuple[type, ...]] = (VoxelGrid,)
    law: ClassVar[Literal["absorption", "visual_hull"]]
    colored: ClassVar[bool] = False

    def __init__(
        self, image_size: int, density: float, reference_size: int | None, samples: int | None, backend: str
    ) -> None:
        super().__init__(image_size)
        for name, value in (("reference_size", reference_size), ("samples", samples)):
            if value is not None:
                check_number(name, value, at_least=1)
        check_choice("backend", backend, ("auto", *BACKENDS))
        self.density, self.reference_size = float(density), reference_size
        self.samples, self.backend = samples, backend

    def march_settings(self, camera: Camera, grid_size: int) -> MarchSettings:
        """Return the settings for a grid of ``grid_size``³ voxels.

        Raises:
            InputError: ``reference_size`` scales the opacity to more than 1.
        """
        density = self.density * (self.reference_size or grid_size) / grid_size
        if self.law == "absorption" and density > 1:
            raise InputError(
                f"opacity {self.density:g} at {self.reference_size}³ voxels is {density:g} at {grid_size}³, more than 1; "
                f"set opacity to at most {grid_size / (self.reference_size or grid_size):g}, or reference_size to null"
            )
        return MarchSettings(Rays.of(camera, self.image_size, self.samples or 2 * grid_size), self.law, density)

    def render(self, scene: Scene, camera: Camera, background: Tensor | None) -> Rendering:
        assert isinstance(scene, VoxelGrid)
        occupancy, color = scene.occupancy, scene.color if self.colored else None
        if occupancy.dtype not in (torch.float32, torch.float64):
            occupancy = occupancy.float()
        if color is not None:
            color = color.to(occupancy.dtype)
        rotation = camera.rotation.to(occupancy)
        backend = choose_backend(self.backend, BACKENDS, occupancy)
        alpha, image = backend.march(occupancy, color, rotation, self.march_settings(camera, scene.size))
        return Rendering(composite(image, alpha, background), alpha)


class AbsorptionRenderer(VolumeRenderer):
    """Absorption without emission: ``alpha = 1 - prod_i (1 - v_i)`` along the ray (IG-GAN, supplement C), white on black.

    Args:
        image_size, samples, reference_size, backend: see :class:`VolumeRenderer`.
        opacity: scales v, in (0, 1]. At 1, as in the paper, one full voxel is opaque. PlatonicGAN's released code uses
            20 / D: 0.3125 for its 64³ grid (``reference_size`` 64), where one full voxel gives alpha 0.31, four give 0.78.

    Raises:
        InputError: see :class:`VolumeRenderer`; an opacity outside (0, 1].
    """

    law = "absorption"

    def __init__(
        self,
        image_size: int,
        opacity: float = 1.0,
        samples: int | None = None,
        backend: str = "auto",
        reference_size: int | None = None,
    ) -> None:
        check_number("opacity", opacity, above=0, at_most=1)
        super().__init__(image_size, opacity, reference_size, samples, backend)


class EmissionAbsorptionRenderer(AbsorptionRenderer):
    """Emission and absorption: ``image = sum_i c_i v_i prod_{j<i} (1 - v_j)``, with alpha as in absorption.

    Each sample emits its colour c, attenuated by the samples before it (IG-GAN, supplement C; PlatonicGAN). The
    supplement includes j = i in the product and divides by the sum of all weights (plus epsilon); an opaque voxel then has
    weight 0. Without j = i the weights sum to alpha, so there is no division and no epsilon, and for emission 1 the image
    equals that of :class:`AbsorptionRenderer`.

    A grid without colour emits white. Colour is interpolated between voxels like occupancy, but is extended beyond the
    grid's faces, so that it does not darken there.

    Args:
        image_size, samples, reference_size, backend: see :class:`VolumeRenderer`.
        opacity: see :class:`AbsorptionRenderer`. PlatonicGAN's released code takes 1024 samples through its grid, each
            of opacity 100 / 1024. Here this is ``opacity=100 / 1024, samples=2048``, because the samples span twice the
            depth.

    Raises:
        InputError: see :class:`AbsorptionRenderer`.
    """

    colored = True


class VisualHullRenderer(VolumeRenderer):
    """The smooth silhouette: ``alpha = 1 - exp(-tau sum_i v_i)`` along the ray (PrGAN), white on black.

    Args:
        image_size, samples, reference_size, backend: see :class:`VolumeRenderer`.
        tau: density, positive. PrGAN's released code uses 0.5 and divides its generator's output by 0.5, which is 1.

    Raises:
        InputError: see :class:`VolumeRenderer`; ``tau`` is not positive.
    """

    law = "visual_hull"

    def __init__(
        self,
        image_size: int,
        tau: float = 1.0,
        samples: int | None = None,
        backend: str = "auto",
        reference_size: int | None = None,
    ) -> None:
        check_number("tau", tau, above=0)
        super().__init__(image_size, tau, reference_size, samples, backend)
