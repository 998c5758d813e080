"""The baselines of IG-GAN: voxels learned through a differentiable renderer (PrGAN, PlatonicGAN; supplement B and C)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import batch_images, check_optimizers
from lightning_modules.gan_step import adam_gan, gan_step
from lightning_modules.losses import to_float32
from lightning_modules.voxel_generative import VoxelGenerativeModule, as_grid, check_channels, check_image_sizes
from renderers import Camera, InputError, Renderer, ViewDistribution, VoxelGrid


class VoxelGANModule(VoxelGenerativeModule):
    """A GAN whose fakes are volume renders of the continuous grid: ``D: real against R(G(z), view)``, G through R, 1:1.

    Generator, discriminator, real images and evaluation are those of IG-GAN, so that only the renderer differs. Training
    uses the same shaded images, although a volume renderer renders white silhouettes; FID compares the thresholded
    shapes, rendered by ``renderer``.

    Args:
        generator: G, maps latents to occupancy, and to colour if the differentiable renderer renders it: 1 more channel
            for grey images, 3 for RGB.
        discriminator: D, maps images to logits.
        renderer: renders samples for evaluation; the same renderer as for the real images.
        differentiable_renderer: R, such as :class:`renderers.AbsorptionRenderer`; without trainable weights.
        views: viewpoints of the real images.
        generator_optimizer, discriminator_optimizer: default to a learning rate of 2e-4.
        **evaluation: see :class:`VoxelGenerativeModule`.

    Raises:
        InputError: the parts do not fit together, see :func:`check_parts`.
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
        self.optimizer_factories = check_optimizers(
            discriminator=discriminator_optimizer, generator=generator_optimizer
        )

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch_images(batch)
        n = len(real)
        views = self.rank_slice(self.views.sample(n * self.world_size, self.random("views")), n)
        shapes = as_grid(to_float32(self.generator(self.training_latents(n))))
        gan_step(self, real, self.differentiable_renderer(shapes, views).image)
        self.log_extra(occupancy_train=shapes.occupancy.detach().mean())

    @torch.no_grad()
    def grid_images(self, shapes: VoxelGrid, camera: Camera) -> dict[str, Float[Tensor, "n _ H W"]]:
        """Return samples, normals and ``volumes``: the continuous grid as the discriminator sees it in training."""
        volumes = self.differentiable_renderer(shapes, camera.to(self.device)).image
        return {**super().grid_images(shapes, camera), "volumes": volumes}


def check_parts(
    generator: nn.Module, discriminator: nn.Module, renderer: Renderer, differentiable_renderer: Renderer
) -> None:
    """Check that the parts fit together. Parts without ``image_size`` or ``channels`` pass.

    Raises:
        InputError: a renderer that is not differentiable, does not accept voxel grids or has trainable weights; sizes or
            channels that differ.
    """
    name = type(differentiable_renderer).__name__
    if not differentiable_renderer.differentiable:
        raise InputError(
            f"differentiable_renderer must be differentiable, {name} is not; use AbsorptionRenderer, "
            "EmissionAbsorptionRenderer or VisualHullRenderer, or train with IGGANModule"
        )
    if VoxelGrid not in differentiable_renderer.accepts:
        raise InputError(f"differentiable_renderer must render voxel grids, {name} does not; use AbsorptionRenderer")
    if any(p.requires_grad for p in differentiable_renderer.parameters()):
        raise InputError(f"{name} has trainable weights, which VoxelGANModule does not train; use IGGANModule")
    check_image_sizes(renderer, {"discriminator": discriminator, "differentiable_renderer": differentiable_renderer})
    out_channels = getattr(generator, "out_channels", 1)
    if out_channels > 1 and not getattr(differentiable_renderer, "colored", True):
        raise InputError(f"{name} does not render colour, but generator.out_channels is {out_channels}; set it to 1")
    check_channels(out_channels, discriminator)
