"""2D-DCGAN: the baseline that learns images without shapes (IG-GAN, supplement B; DCGAN)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_modules.gan_step import adam_gan, gan_step
from lightning_modules.generative import GenerativeModule
from lightning_modules.losses import to_float32
from renderers import InputError


class ImageGANModule(GenerativeModule):
    """GAN of images: ``D: real against G(z)``, 1:1, with IG-GAN's discriminator, optimizers and FID.

    It has no shapes, so no normal maps, no viewpoints and nothing to export but images.

    Args:
        generator: G, latents ``(B, Z)`` to images ``(B, C, S, S)`` in [0, 1]; has ``latent_size``.
        discriminator: D, images to logits.
        generator_optimizer, discriminator_optimizer: learning rates 2e-4.
        **evaluation: see :class:`GenerativeModule`.
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
                    f"generator.{name} is {ours}, discriminator.{name} is {theirs}; set both to one number"
                )
        self.discriminator = discriminator
        self.optimizer_factories = (discriminator_optimizer, generator_optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.discriminator, self.generator)
        return [make(net.parameters()) for make, net in zip(self.optimizer_factories, networks, strict=True)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        n, total = len(real), len(real) * self.world_size
        z = torch.randn(total, self.generator.latent_size, generator=self.random("latents"))
        gan_step(self, real, to_float32(self.generator(self.rank_slice(z, n))))

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        return self.generator_ema(z[part]).float()

    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        return {"samples": self.generate_for_metrics(self.latents(rows * columns, "grid", seed))}

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The batch's samples: ``image (B, C, S, S)``."""
        return {"image": self.generate_for_metrics(self.sample_latents(batch))}
