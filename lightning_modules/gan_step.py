"""The game of two that the baselines of IG-GAN play: discriminator, then generator, 1:1."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_modules.base import frozen
from lightning_modules.generative import GenerativeModule
from lightning_modules.losses import discriminator_loss, generator_loss
from renderers import InputError


def adam_gan(params: Any) -> torch.optim.Optimizer:
    """Adam at 2e-4 (supplement B.1), betas (0.5, 0.999) of DCGAN."""
    return torch.optim.Adam(params, lr=2e-4, betas=(0.5, 0.999))


def gan_step(module: GenerativeModule, real: Float[Tensor, "B C H W"], fake: Float[Tensor, "B c h w"]) -> None:
    """One step: D on real against fake images, then G through the fake ones; the clock, the average and the log.

    Args:
        module: has a ``discriminator`` and two optimizers, D's and G's.
        real: images in [0, 1].
        fake: the same of the generator, with its graph.

    Raises:
        InputError: images of different shapes.
    """
    check_alike(real, fake)
    d_optimizer, g_optimizer = module.optimizers()

    real_logits, fake_logits = module.discriminator(torch.cat([real, fake.detach()])).chunk(2)
    d_loss = discriminator_loss(real_logits, fake_logits)
    module.step_optimizer(d_optimizer, d_loss)

    with frozen(module.discriminator):
        g_loss = generator_loss(module.discriminator(fake))
    module.step_optimizer(g_optimizer, g_loss)

    module.advance_step(len(real))
    module.update_ema(len(real) * module.world_size)
    module.log_step(d=d_loss, g=g_loss)
    module.log_more(d_real=(real_logits > 0).float().mean(), d_fake=(fake_logits < 0).float().mean())


def check_alike(real: Tensor, fake: Tensor) -> None:
    """Raises an :class:`InputError` if real and generated images differ in shape."""
    if real.shape != fake.shape:
        shapes = [" x ".join(map(str, images.shape[1:])) for images in (real, fake)]
        raise InputError(
            f"real images are {shapes[0]}, generated ones {shapes[1]} (C x H x W); set the model to the data"
        )
