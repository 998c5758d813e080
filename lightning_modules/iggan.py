"""Inverse Graphics GAN: 3D shapes from images through an ordinary, non-differentiable renderer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import frozen
from lightning_modules.gan_step import adam_gan, check_alike
from lightning_modules.generative import VoxelGenerativeModule, check_image_sizes
from lightning_modules.losses import (
    discriminator_loss,
    generator_loss,
    image_loss,
    output_matching_loss,
    relative_error,
    to_float32,
)
from lightning_modules.neural_renderer import load_proxy
from renderers import InputError, NeuralRenderer, Renderer, ViewDistribution, VoxelGrid


def adam_proxy(params: Any) -> torch.optim.Optimizer:
    """Adam at 2e-5 (supplement B.1)."""
    return torch.optim.Adam(params, lr=2e-5, betas=(0.5, 0.999))


class IGGANModule(VoxelGenerativeModule):
    """IG-GAN (arXiv 2002.12674): one step of discriminator, generator and neural renderer each, 1:1:1.

    The generator's gradient comes through the neural renderer, which is trained at the same time to draw the continuous
    occupancy as OpenGL draws its thresholding, in the image and in what the discriminator thinks of it.

    Args:
        generator: G, latents to occupancy.
        discriminator: D, images to logits.
        renderer: the black box, such as :class:`renderers.OpenGLRenderer`.
        neural_renderer: R, its differentiable proxy.
        views: viewpoints of the real images.
        generator_optimizer, discriminator_optimizer, proxy_optimizer: learning rates 2e-4, 2e-4 and 2e-5.
        dom_weight: λ of discriminator output matching beside the squared error *summed* over pixels; 0 turns it off.
        proxy: whether R learns on (``retrained``) or stays as pre-trained (``fixed``).
        discriminator_sees: whether D's fakes are drawn by the black box (``opengl``) or by R (``neural``).
        proxy_checkpoint: of :class:`NeuralRendererModule`, to start R from; or the config that trains one, such as
            ``proxy_tables.yaml``; None starts from random weights.
        **evaluation: see :class:`VoxelGenerativeModule`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        renderer: Renderer,
        neural_renderer: NeuralRenderer,
        views: ViewDistribution,
        generator_optimizer: OptimizerCallable = adam_gan,
        discriminator_optimizer: OptimizerCallable = adam_gan,
        proxy_optimizer: OptimizerCallable = adam_proxy,
        dom_weight: float = 100.0,
        proxy: Literal["retrained", "fixed"] = "retrained",
        discriminator_sees: Literal["opengl", "neural"] = "opengl",
        proxy_checkpoint: str | None = None,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, renderer, views, **evaluation)
        check_sizes(generator, discriminator, renderer, neural_renderer)
        self.discriminator, self.neural_renderer = discriminator, neural_renderer
        self.optimizer_factories = (discriminator_optimizer, generator_optimizer, proxy_optimizer)
        self.dom_weight, self.proxy, self.discriminator_sees = dom_weight, proxy, discriminator_sees
        self.proxy_checkpoint = proxy_checkpoint

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.proxy_checkpoint and not self.trainer.ckpt_path:
            load_proxy(self.neural_renderer, self.proxy_checkpoint)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.discriminator, self.generator, self.neural_renderer)
        return [make(net.parameters()) for make, net in zip(self.optimizer_factories, networks, strict=True)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        n, total = len(real), len(real) * self.world_size
        d_optimizer, g_optimizer, r_optimizer = self.optimizers()
        z = torch.randn(total, self.generator.latent_size, generator=self.random("latents"))
        t = torch.rand(total, generator=self.random("thresholds"))
        views = self.rank_slice(self.views.sample(total, self.random("views")), n)

        x_continuous = VoxelGrid(to_float32(self.generator(self.rank_slice(z, n))))
        x_discrete = x_continuous.binarize(self.rank_slice(t, n))
        y_opengl = self.renderer(x_discrete, views).image
        check_alike(real, y_opengl)
        rotated = self.neural_renderer.rotate(x_continuous, views)
        draw = self.neural_renderer.network

        # The proxy draws once for all: its graph, from `seen` on, serves the generator's gradient and then its own.
        seen = rotated.detach().requires_grad_()
        y_neural = to_float32(draw(seen))

        # Discriminator: real images against the black box's.
        fake = y_opengl if self.discriminator_sees == "opengl" else y_neural.detach()
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).chunk(2)
        d_loss = discriminator_loss(real_logits, fake_logits)
        self.step_optimizer(d_optimizer, d_loss)

        # Generator: through the proxy, on the continuous grid.
        with frozen(self.discriminator):
            proxy_logits = self.discriminator(y_neural)
        g_loss = generator_loss(proxy_logits)
        (gradient,) = torch.autograd.grad(g_loss, seen, retain_graph=self.proxy == "retrained")
        self.step_optimizer(g_optimizer, rotated, gradient)

        # Proxy: the continuous grid drawn as the black box draws its thresholding.
        losses = {"d": d_loss, "g": g_loss}
        if self.proxy == "retrained":
            r_loss = image_loss(y_neural, y_opengl)
            if self.dom_weight:
                with frozen(self.discriminator), torch.no_grad():
                    opengl_logits = self.discriminator(y_opengl)
                r_loss = r_loss + self.dom_weight * output_matching_loss(proxy_logits, opengl_logits)
            self.step_optimizer(r_optimizer, r_loss, inputs=list(self.neural_renderer.parameters()))
            losses["r"] = r_loss
            self.log_more(proxy_error=relative_error(y_neural.detach(), y_opengl))

        self.advance_step(n)
        self.update_ema(total)
        self.log_step(**losses)
        self.log_more(
            d_real=(real_logits > 0).float().mean(),
            d_fake=(fake_logits < 0).float().mean(),
            occupancy_train=x_continuous.occupancy.detach().mean(),
        )


def check_sizes(
    generator: nn.Module, discriminator: nn.Module, renderer: Renderer, neural_renderer: NeuralRenderer
) -> None:
    """Refuse parts whose images or grids do not fit together; parts that do not tell their size are trusted.

    Raises:
        InputError: naming the two that differ.
    """
    network = neural_renderer.network
    voxels = getattr(generator, "voxel_size", None)
    lattice = neural_renderer.lattice_size or (2 * voxels if voxels else None)
    parts = {"discriminator": discriminator, "neural_renderer": neural_renderer, "neural_renderer.network": network}
    check_image_sizes(renderer, parts)
    takes = getattr(network, "lattice_size", lattice)
    if lattice is not None and takes != lattice:
        raise InputError(
            f"a generator of {voxels}³ voxels is rotated in {lattice}³, neural_renderer.network.lattice_size says "
            f"{takes}; set it to {lattice}"
        )
