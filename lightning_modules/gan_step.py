"""The training step of all methods but IG-GAN: one update of the discriminator, then one of the generator."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_modules.base import frozen
from lightning_modules.generative import GenerativeModule
from lightning_modules.losses import discriminator_accuracy, discriminator_loss, generator_loss
from renderers import InputError


def adam_gan(params: Any) -> torch.optim.Optimizer:
    """Adam with learning rate 2e-4 (supplement B.1) and betas (0.5, 0.999) as in DCGAN."""
    return torch.optim.Adam(params, lr=2e-4, betas=(0.5, 0.999))


def gan_step(
    module: GenerativeModule, real: Float[Tensor, "B C H W"], fake: Float[Tensor, "B c h w"], **options: Any
) -> None:
    """Update D on real and fake images, then G through the fake images; update the EMA and log.

    Args:
        module: a module with a ``discriminator`` and two optimizers, of D and G.
        real: real images in [0, 1].
        fake: images of the generator in [0, 1], with their graph.
        options: further arguments of D, such as ``fade``.

    Raises:
        InputError: the images differ in shape.
    """
    check_same_shape(real, fake)
    d_optimizer, g_optimizer = cast(list[Any], module.optimizers())

    # D: real images against detached fakes, and R1.
    real = module.prepare_r1(real)
    fake = module.augmented(fake, "generated")
    pair = (module.augmented(real, "real"), fake.detach())
    real_logits, fake_logits = logits_of_both(module.discriminator, *pair, **options)
    d_loss = discriminator_loss(real_logits, fake_logits)
    module.step_optimizer(d_optimizer, module.add_r1(d_loss, real_logits, real))
    module.adapt_augment(real_logits)

    # G: through the updated D.
    with frozen(module.discriminator):
        g_loss = generator_loss(module.discriminator(fake, **options))
    module.step_optimizer(g_optimizer, g_loss)

    module.advance_step(len(real))
    module.update_ema(len(real) * module.world_size)
    module.log_step(d=d_loss, g=g_loss)
    module.log_extra(**discriminator_accuracy(real_logits, fake_logits))


def logits_of_both(
    discriminator: nn.Module, real: Float[Tensor, "B C H W"], fake: Float[Tensor, "B C H W"], **options: Any
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Return D's logits of real and of generated images: of one batch, or of two if D compares the images of a batch."""
    if getattr(discriminator, "stddev_group", 1) > 1:
        return discriminator(real, **options), discriminator(fake, **options)
    real_logits, fake_logits = discriminator(torch.cat([real, fake]), **options).chunk(2)
    return real_logits, fake_logits


def check_same_shape(real: Tensor, fake: Tensor) -> None:
    """Raise an :class:`InputError` if real and generated images differ in channels or size."""
    if real.shape != fake.shape:
        raise InputError(
            f"real images are {_shape(real)}, generated images are {_shape(fake)} (C x H x W); set the model's image size "
            "and channels to those of the data"
        )


def check_proxy_images(images: Tensor, proxy_images: Tensor) -> None:
    """Raise an :class:`InputError` if the images of a renderer and of its proxy differ in channels or size."""
    if images.shape != proxy_images.shape:
        raise InputError(
            f"the renderer's images are {_shape(images)}, those of neural_renderer are {_shape(proxy_images)} (C x H x W); "
            "set image_size and out_channels of neural_renderer and its network to those of the renderer"
        )


def _shape(images: Tensor) -> str:
    return " x ".join(map(str, images.shape[1:]))
