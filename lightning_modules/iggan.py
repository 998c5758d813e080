"""Inverse Graphics GAN: 3D shapes from images through an off-the-shelf, non-differentiable renderer."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import frozen
from lightning_modules.gan_step import adam_gan, check_same_shape
from lightning_modules.generative import VoxelGenerativeModule, check_image_sizes
from lightning_modules.losses import (
    discriminator_accuracy,
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
    """Adam with learning rate 2e-5 (supplement B.1)."""
    return torch.optim.Adam(params, lr=2e-5, betas=(0.5, 0.999))


class IGGANModule(VoxelGenerativeModule):
    """IG-GAN (arXiv 2002.12674). Each training step updates D, G and R once::

        x_c = G(z)                          continuous occupancy
        x_d = x_c > t,  t ~ U[0, 1]         one threshold per sample
        y_gl = OpenGL(x_d, view)            no gradient
        y_nn = R(x_c, view)                 neural proxy
        D:  softplus(-D(real)) + softplus(D(y_gl))
        G:  softplus(-D(y_nn))              gradient through R
        R:  ||y_nn - y_gl||² + λ (log D(y_gl) - log D(y_nn))²

    The generator's gradient flows through the neural renderer R. R is trained at the same time to render the continuous
    occupancy as OpenGL renders the thresholded one, in pixels and in the discriminator's output.

    Args:
        generator: G, maps latents to occupancy.
        discriminator: D, maps images to logits.
        renderer: non-differentiable renderer, such as :class:`renderers.OpenGLRenderer`.
        neural_renderer: R, the differentiable proxy of ``renderer``.
        views: viewpoints of the real images.
        generator_optimizer, discriminator_optimizer, proxy_optimizer: default to learning rates of 2e-4, 2e-4 and 2e-5.
        dom_weight: λ, weight of discriminator output matching relative to the squared error *summed* over pixels; 0
            disables it.
        proxy: whether R is trained (``retrained``) or stays as pre-trained (``fixed``).
        discriminator_sees: whether D's fakes are rendered by ``renderer`` (``opengl``) or by R (``neural``).
        proxy_checkpoint: checkpoint of :class:`NeuralRendererModule` to initialize R from, or the config that trains one,
            such as ``proxy_tables.yaml``. None starts from random weights.
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
        self.optimizer_factories = {
            "discriminator": discriminator_optimizer,
            "generator": generator_optimizer,
            "neural_renderer": proxy_optimizer,
        }
        self.dom_weight, self.proxy, self.discriminator_sees = dom_weight, proxy, discriminator_sees
        self.proxy_checkpoint = proxy_checkpoint

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.proxy_checkpoint and not self.trainer.ckpt_path:
            load_proxy(self.neural_renderer, self.proxy_checkpoint)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        n, total = len(real), len(real) * self.world_size
        d_optimizer, g_optimizer, r_optimizer = cast(list[Any], self.optimizers())

        z = self.training_latents(n)
        t = self.rank_slice(torch.rand(total, generator=self.random("thresholds")), n)
        views = self.rank_slice(self.views.sample(total, self.random("views")), n)
        x_continuous = VoxelGrid(to_float32(self.generator(z)))
        x_discrete = x_continuous.binarize(t)

        y_opengl = self.renderer(x_discrete, views).image
        check_same_shape(real, y_opengl)
        # R renders once. The graph from the detached `r_input` to y_neural gives the gradients of both G and R.
        rotated = self.neural_renderer.rotate(x_continuous, views)
        r_input = rotated.detach().requires_grad_()
        y_neural = to_float32(self.neural_renderer.network(r_input))

        # D: real images against renders of the thresholded grids.
        fake = y_opengl if self.discriminator_sees == "opengl" else y_neural.detach()
        real_logits, fake_logits = self.discriminator(torch.cat([real, fake])).chunk(2)
        d_loss = discriminator_loss(real_logits, fake_logits)
        self.step_optimizer(d_optimizer, d_loss)

        # G: through R, on the continuous grids.
        with frozen(self.discriminator):
            proxy_logits = self.discriminator(y_neural)
        g_loss = generator_loss(proxy_logits)
        (gradient,) = torch.autograd.grad(g_loss, r_input, retain_graph=self.proxy == "retrained")
        self.step_optimizer(g_optimizer, rotated, gradient)
        losses = {"d": d_loss, "g": g_loss}

        # R: match OpenGL's image and D's output for it.
        if self.proxy == "retrained":
            r_loss = image_loss(y_neural, y_opengl)
            if self.dom_weight:
                with frozen(self.discriminator), torch.no_grad():
                    opengl_logits = self.discriminator(y_opengl)
                r_loss = r_loss + self.dom_weight * output_matching_loss(proxy_logits, opengl_logits)
            self.step_optimizer(r_optimizer, r_loss, inputs=list(self.neural_renderer.parameters()))
            losses["r"] = r_loss
            self.log_extra(proxy_error=relative_error(y_neural.detach(), y_opengl))

        self.advance_step(n)
        self.update_ema(total)
        self.log_step(**losses)
        self.log_extra(
            **discriminator_accuracy(real_logits, fake_logits), occupancy_train=x_continuous.occupancy.detach().mean()
        )


def check_sizes(
    generator: nn.Module, discriminator: nn.Module, renderer: Renderer, neural_renderer: NeuralRenderer
) -> None:
    """Check that image and grid sizes of the parts fit together. Parts without these attributes pass.

    Raises:
        InputError: naming the two that differ.
    """
    network = neural_renderer.network
    voxel_size = getattr(generator, "voxel_size", None)
    lattice_size = neural_renderer.lattice_size or (2 * voxel_size if voxel_size else None)
    parts = {"discriminator": discriminator, "neural_renderer": neural_renderer, "neural_renderer.network": network}
    check_image_sizes(renderer, parts)
    network_size = getattr(network, "lattice_size", lattice_size)
    if lattice_size is not None and network_size != lattice_size:
        raise InputError(
            f"grids of {voxel_size}³ voxels are rotated in a lattice of {lattice_size}³, but "
            f"neural_renderer.network.lattice_size is {network_size}; set it to {lattice_size}"
        )
