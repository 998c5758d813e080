"""2D-DCGAN: the baseline that generates images without shapes (IG-GAN, supplement B; DCGAN)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.base import batch_images, check_optimizers
from lightning_modules.gan_step import adam_gan, gan_step
from lightning_modules.generative import GenerativeModule
from lightning_modules.losses import to_float32
from renderers import InputError


class ImageGANModule(GenerativeModule):
    """A GAN of images with the discriminator, optimizers and FID of IG-GAN: ``D: real against G(z)``, 1:1.

    It has no shapes, so there are no normal maps, viewpoints or meshes to export.

    Args:
        generator: G, maps latents ``(B, Z)`` to images ``(B, C, S, S)`` in [0, 1]; has ``latent_size``.
        discriminator: D, maps images to logits.
        generator_optimizer, discriminator_optimizer: default to a learning rate of 2e-4.
        **evaluation: see :class:`GenerativeModule`.

    Raises:
        InputError: generator and discriminator have different image sizes or channels.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        generator_optimizer: OptimizerCallable = adam_gan,
        discriminator_optimizer: OptimizerCallable = adam_gan,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, **evaluation)
        for name in ("image_size", "channels"):
            ours, theirs = getattr(generator, name, None), getattr(discriminator, name, None)
            if None not in (ours, theirs) and ours != theirs:
                raise InputError(
                    f"generator.{name} is {ours}, discriminator.{name} is {theirs}; set both to the same number"
                )
        self.discriminator = discriminator
        self.optimizer_factories = check_optimizers(
            discriminator=discriminator_optimizer, generator=generator_optimizer
        )

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch_images(batch)
        gan_step(self, real, to_float32(self.generator(self.training_latents(len(real)))))

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        return self.generator_ema(z[part]).float()

    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        return {"samples": self.generate_for_metrics(self.latents(rows * columns, "grid", seed))}

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return samples by number: ``image (B, C, S, S)``."""
        return {"image": self.generate_for_metrics(self.sample_latents(batch))}
