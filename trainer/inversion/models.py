"""What inversion needs of a generator: latents, differentiable images and OpenGL images of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_modules import IGGANModule, MeshGANModule, VoxelGANModule
from lightning_modules.generative import GenerativeModule
from lightning_modules.voxel_generative import VoxelGenerativeModule, as_grid
from networks import GeneratedScene
from renderers import (
    Camera,
    InputError,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    Renderer,
    Rendering,
    TriangleMesh,
    ViewDistribution,
    VoxelGrid,
)

RendererChoice = Literal["lit", "own"]
SHARPNESS = 0.5  # temperature of the soft threshold, that of IG-GAN's training
BATCH = 32  # shapes generated at a time
STYLE_SAMPLES = 4096  # latents that the distribution of styles is measured on
STYLE_WEIGHT = 0.002  # of the squared distance to the mean style, in standard deviations per dimension


class InvertibleGenerator(ABC):
    """A generator of a run as a function of flat latents ``(n, P)``, without Lightning.

    Attributes:
        image_size: S, height and width of the images.
        channels: C of the images.
        views: distribution of the viewpoints that the run was trained on.
    """

    image_size: int
    channels: int
    views: ViewDistribution

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "n P"]:
        """Sample latents from the generator's prior."""

    @abstractmethod
    def constrain(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, "n P"]:
        """Project latents onto the set that the optimization is limited to."""

    @abstractmethod
    def penalty(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, " n"]:
        """Return the term of the loss that keeps latents near the prior."""

    @abstractmethod
    def render(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        """Render with gradients to the latent and the camera's angles, over the background if the generator has one."""

    @abstractmethod
    def scene(self, latent: Float[Tensor, "n P"]) -> VoxelGrid | TriangleMesh:
        """Return the shapes as they are exported: solid voxels, or textured meshes."""

    @abstractmethod
    def solids(self, latent: Float[Tensor, "n P"]) -> Any:
        """Return the shapes on the CPU as :class:`trainer.inversion.truth.Truth` compares them, grids or meshes."""

    @abstractmethod
    def verify(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        """Render the exported shapes with OpenGL, without gradients, over the background if the generator has one.

        Args:
            latent: latents.
            camera: v viewpoints of each latent, ``n v`` in all, those of one latent next to each other.
        """


class InvertibleVoxels(InvertibleGenerator):
    """A generator of voxels. Latents are z on the sphere of radius sqrt(Z), where nearly all of a standard normal is.

    The differentiable renderer gets the soft threshold ``sigmoid((logit x - logit t) / 0.5)`` of the occupancy x, which is
    close to the solid {x > t} that OpenGL renders.

    Args:
        module: the run's module.
        renderer: ``lit`` is :class:`renderers.LitAbsorptionRenderer` with the lights of the run's OpenGL renderer; ``own``
            is the renderer that the run was trained through: IG-GAN's proxy, or a baseline's volume renderer.

    Raises:
        InputError: ``lit`` for a coloured generator.
    """

    def __init__(self, module: VoxelGenerativeModule, renderer: RendererChoice) -> None:
        self.module, self.choice = module, renderer
        self.channels = max(1, getattr(module.generator, "out_channels", 1) - 1)
        self.image_size, self.views = module.renderer.image_size, module.views
        if renderer == "own":
            assert isinstance(module, IGGANModule | VoxelGANModule)
            own = module.neural_renderer if isinstance(module, IGGANModule) else module.differentiable_renderer
            self.differentiable: Renderer = own
        elif self.channels > 1:
            raise InputError("--renderer lit has no colour, and this run's shapes are coloured; use --renderer own")
        else:
            lighting = getattr(module.renderer, "lighting", None)
            self.differentiable = LitAbsorptionRenderer(
                self.image_size, lighting=None if isinstance(lighting, str) else lighting
            )

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "n P"]:
        return self.constrain(torch.randn(count, self.module.latent_size, generator=generator).to(self.module.device))

    def constrain(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, "n P"]:
        return latent * (math.sqrt(latent.shape[1]) / latent.norm(dim=1, keepdim=True).clamp(min=1e-6))

    def penalty(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, " n"]:
        return latent.new_zeros(len(latent))

    def render(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        grid = as_grid(self.module.generator_ema(latent).float())
        threshold = math.log(self.module.threshold / (1 - self.module.threshold))
        soft = torch.sigmoid((grid.occupancy.logit(eps=1e-6) - threshold) / SHARPNESS)
        return self.differentiable(VoxelGrid(soft, grid.color), camera)

    def scene(self, latent: Float[Tensor, "n P"]) -> VoxelGrid:
        return self.module.shapes(latent).binarize(self.module.threshold)

    def solids(self, latent: Float[Tensor, "n P"]) -> Bool[Tensor, "n D D D"]:
        parts = [self.scene(part.to(self.module.device)).occupancy[:, 0].bool().cpu() for part in latent.split(BATCH)]
        return torch.cat(parts)

    def verify(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        shapes, views = self.module.shapes(latent), len(camera) // len(latent)
        color = None if shapes.color is None else shapes.color.repeat_interleave(views, 0)
        return self.module.render(VoxelGrid(shapes.occupancy.repeat_interleave(views, 0), color), camera)


class InvertibleMeshes(InvertibleGenerator):
    """MeshGAN. Latents are one style w of the object's network and one of the background's, ``P = 2 W``.

    Styles are limited by a penalty on their distance to the mean style (in standard deviations, measured on 4,096 latents),
    since styles far from those of training give shapes unlike those of training. Noise is fixed and the background is
    cropped at its centre, as in ``predict``.

    Args:
        module: the run's module.
    """

    def __init__(self, module: MeshGANModule) -> None:
        self.module = module
        self.image_size, self.channels, self.views = module.stage.resolution, 3, module.views
        self.opengl = OpenGLRenderer(self.image_size, lighting="unlit", backend="moderngl", geometry=False)
        styles = self.sample(STYLE_SAMPLES, torch.Generator().manual_seed(0))
        self.mean, self.deviation = styles.mean(0), styles.std(0).clamp(min=1e-3)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "n P"]:
        z = torch.randn(count, self.module.latent_size, generator=generator).to(self.module.device)
        return self.module.generator_ema.map_styles(z)

    def constrain(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, "n P"]:
        return latent

    def penalty(self, latent: Float[Tensor, "n P"]) -> Float[Tensor, " n"]:
        return STYLE_WEIGHT * ((latent - self.mean) / self.deviation).square().mean(1)

    def render(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        scene = self._generate(latent)
        return self.module.render(scene.mesh, camera, scene.background, normals=False)

    @torch.no_grad()
    def scene(self, latent: Float[Tensor, "n P"]) -> TriangleMesh:
        return self._generate(latent).mesh

    def solids(self, latent: Float[Tensor, "n P"]) -> TriangleMesh:
        meshes = [self.scene(part.to(self.module.device)).to("cpu") for part in latent.split(BATCH)]
        return TriangleMesh(torch.cat([mesh.vertices for mesh in meshes]), meshes[0].faces)

    @torch.no_grad()
    def verify(self, latent: Float[Tensor, "n P"], camera: Camera) -> Rendering:
        scene, views = self._generate(latent), len(camera) // len(latent)
        mesh = scene.mesh
        assert mesh.texture is not None
        vertices, texture, background = (
            x.repeat_interleave(views, 0) for x in (mesh.vertices, mesh.texture, scene.background)
        )
        repeated = TriangleMesh(vertices, mesh.faces, mesh.uvs, texture)
        return self.opengl(repeated, camera.to(mesh.device), background)

    def _generate(self, latent: Float[Tensor, "n P"]) -> GeneratedScene:
        stage = self.module.stage
        return self.module.generator_ema.from_styles(latent, stage.resolution, stage.fade)


def invertible(module: GenerativeModule, renderer: RendererChoice | None) -> InvertibleGenerator:
    """Return the generator of a run for inversion.

    Args:
        module: the run's module, in evaluation mode.
        renderer: see :class:`InvertibleVoxels`; None for ``own`` if the shapes are coloured, else ``lit``.

    Raises:
        InputError: the run does not generate shapes, or the renderer does not fit it.
    """
    if isinstance(module, MeshGANModule):
        if renderer is not None:
            raise InputError("--renderer is for voxels; MeshGAN is inverted through its own rasterizer, omit it")
        return InvertibleMeshes(module)
    if not isinstance(module, IGGANModule | VoxelGANModule):
        raise InputError(f"{type(module).__name__} does not generate shapes through a differentiable renderer")
    colored = getattr(module.generator, "out_channels", 1) > 1
    return InvertibleVoxels(module, renderer or ("own" if colored else "lit"))
