"""The baselines of IG-GAN: voxels learnt through a differentiable renderer (PrGAN, PlatonicGAN; supplement B and C)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.gan_step import adam_gan, gan_step
from lightning_modules.generative import VoxelGenerativeModule, as_grid, check_image_sizes
from lightning_modules.losses import to_float32
from renderers import Camera, InputError, Renderer, ViewDistribution, VoxelGrid


class VoxelGANModule(VoxelGenerativeModule):
    """GAN whose fakes are drawn from the continuous grid: ``D: real against R(G(z), view)``, G through R, 1:1.

    Generator, discriminator, real images and evaluation are IG-GAN's, so that only the renderer differs: it learns from
    the same shaded images, though a volume renderer draws white silhouettes, and FID sees its thresholded shapes as
    ``renderer`` draws them.

    Args:
        generator: G, latents to occupancy, and to colour beside it if the differentiable renderer draws it: 1 channel more
            for grey images, 3 for RGB.
        discriminator: D, images to logits.
        renderer: draws samples for evaluation, the one that drew the real images.
        differentiable_renderer: R, such as :class:`renderers.AbsorptionRenderer`; it has nothing to learn.
        views: viewpoints of the real images.
        generator_optimizer, discriminator_optimizer: learning rates 2e-4.
        **evaluation: see :class:`VoxelGenerativeModule`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        renderer: Renderer,
        differentiable_renderer: Renderer,
        views: ViewDistribution,
        generator_optimizer: OptimizerCallable = adam_gan,
        discriminator_optimizer: OptimizerCallable = adam_gan,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, renderer, views, **evaluation)
        check_parts(generator, discriminator, renderer, differentiable_renderer)
        self.discriminator, self.differentiable_renderer = discriminator, differentiable_renderer
        self.optimizer_factories = (discriminator_optimizer, generator_optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.discriminator, self.generator)
        return [make(net.parameters()) for make, net in zip(self.optimizer_factories, networks, strict=True)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        n, total = len(real), len(real) * self.world_size
        z = torch.randn(total, self.generator.latent_size, generator=self.random("latents"))
        views = self.rank_slice(self.views.sample(total, self.random("views")), n)
        shapes = as_grid(to_float32(self.generator(self.rank_slice(z, n))))
        gan_step(self, real, self.differentiable_renderer(shapes, views).image)
        self.log_more(occupancy_train=shapes.occupancy.detach().mean())

    @torch.no_grad()
    def images(self, shapes: VoxelGrid, camera: Camera) -> dict[str, Float[Tensor, "n _ H W"]]:
        """Beside samples and normals ``volumes``: the continuous grid as the discriminator sees it in training."""
        volumes = self.differentiable_renderer(shapes, camera.to(self.device)).image
        return {**super().images(shapes, camera), "volumes": volumes}


def check_parts(
    generator: nn.Module, discriminator: nn.Module, renderer: Renderer, differentiable_renderer: Renderer
) -> None:
    """Refuse parts that do not fit together; parts that do not tell their size or channels are trusted.

    Raises:
        InputError: a renderer that passes no gradient, draws no voxels or has weights of its own; sizes or channels that
            differ.
    """
    name = type(differentiable_renderer).__name__
    if not differentiable_renderer.differentiable:
        raise InputError(
            f"differentiable_renderer must pass gradients, which {name} does not; choose AbsorptionRenderer, "
            "EmissionAbsorptionRenderer or VisualHullRenderer, or train it with IGGANModule"
        )
    if VoxelGrid not in differentiable_renderer.accepts:
        raise InputError(f"differentiable_renderer must draw voxel grids, which {name} does not")
    if any(p.requires_grad for p in differentiable_renderer.parameters()):
        raise InputError(f"{name} has weights to learn, for which IGGANModule is; VoxelGANModule trains none")
    check_image_sizes(renderer, {"discriminator": discriminator, "differentiable_renderer": differentiable_renderer})
    channels = getattr(generator, "out_channels", 1)
    if channels > 1 and not getattr(differentiable_renderer, "colored", True):
        raise InputError(f"{name} draws no colour, generator.out_channels says {channels}; set it to 1")
    drawn = max(1, channels - 1)
    takes = getattr(discriminator, "channels", drawn)
    if takes != drawn:
        raise InputError(
            f"a generator of {channels} channels gives images of {drawn}, discriminator.channels says {takes}; set it "
            f"to {drawn}"
        )
