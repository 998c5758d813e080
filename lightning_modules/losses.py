"""The losses of both papers, as pure functions of logits and images; in float32 also where networks give less."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from utils.distributed import sum_over_ranks


def to_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is if that is more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def discriminator_loss(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Logistic loss of logits, ``mean softplus(-D(real)) + mean softplus(D(fake))``."""
    return F.softplus(-to_float32(real)).mean() + F.softplus(to_float32(fake)).mean()


def generator_loss(fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Non-saturating loss ``-mean log D(fake) = mean softplus(-logit)``."""
    return F.softplus(-to_float32(fake)).mean()


def image_loss(drawn: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """``||drawn - target||²``: summed over channels and pixels, mean over the batch.

    The reduction is part of IG-GAN's λ: 100 times the matching loss stands beside a *sum* over pixels.
    """
    return (to_float32(drawn) - target).square().sum((1, 2, 3)).mean()


def output_matching_loss(proxy: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Discriminator output matching: ``mean (log D(target) - log D(proxy))²`` of logits.

    log D is ``logsigmoid`` of the logit: the generator's own loss, so that a proxy at the optimum gives the generator
    the loss that it would expect from OpenGL.
    """
    return (F.logsigmoid(to_float32(target)) - F.logsigmoid(to_float32(proxy))).square().mean()


def relative_error(drawn: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """``||drawn - target||² / ||target||²`` over the batch of all ranks: an all-black image has 1, 0 is perfect."""
    error, power = sum_over_ranks(torch.stack([(to_float32(drawn) - target).square().sum(), target.square().sum()]))
    return error / power.clamp(min=1e-12)


def gradient_penalty(logits: Float[Tensor, " B"], images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """R1 (Mescheder et al. 2018): ``mean |dD/dx|²`` at real images x, summed over pixels; itself differentiable.

    The images must be in the logits' graph. Halving their range, from [-1, 1] to [0, 1], makes it 4 times as large.
    """
    (gradient,) = torch.autograd.grad(to_float32(logits).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
