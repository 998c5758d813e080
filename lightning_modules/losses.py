"""The losses of both papers as pure functions of logits and images, computed in at least float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from utils.distributed import sum_over_ranks


def to_float32(x: Tensor) -> Tensor:
    """Promote x to at least float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def discriminator_loss(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Logistic loss of logits: ``mean softplus(-D(real)) + mean softplus(D(fake))``."""
    return F.softplus(-to_float32(real)).mean() + F.softplus(to_float32(fake)).mean()


def generator_loss(fake: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Non-saturating loss of logits: ``-mean log D(fake) = mean softplus(-D(fake))``."""
    return F.softplus(-to_float32(fake)).mean()


def image_loss(rendered: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """``||rendered - target||²``, summed over channels and pixels, averaged over the batch.

    IG-GAN's λ depends on this reduction: 100 times the output matching loss is added to a *sum* over pixels.
    """
    return (to_float32(rendered) - target).square().sum((1, 2, 3)).mean()


def output_matching_loss(proxy: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Discriminator output matching (DOM) of logits: ``mean (log D(target) - log D(proxy))²``.

    log D is ``logsigmoid`` of the logit, which is the generator's loss up to sign. So a converged proxy gives the
    generator the loss that it would get from OpenGL.
    """
    return (F.logsigmoid(to_float32(target)) - F.logsigmoid(to_float32(proxy))).square().mean()


def relative_error(rendered: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """``||rendered - target||² / ||target||²`` over the batches of all ranks: 0 is perfect, an all-black image has 1."""
    error, power = sum_over_ranks(torch.stack([(to_float32(rendered) - target).square().sum(), target.square().sum()]))
    return error / power.clamp(min=1e-12)


def gradient_penalty(logits: Float[Tensor, " B"], images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """R1 (Mescheder et al. 2018): ``mean |dD/dx|²`` at real images x, summed over pixels; differentiable.

    The images must be part of the logits' graph. Images in [0, 1] instead of [-1, 1] make the penalty 4 times as large.
    """
    (gradient,) = torch.autograd.grad(to_float32(logits).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def discriminator_accuracy(real: Float[Tensor, " B"], fake: Float[Tensor, " B"]) -> dict[str, Float[Tensor, ""]]:
    """Fractions of real and of generated images that D classifies correctly: ``d_real`` and ``d_fake``."""
    return {"d_real": (real > 0).float().mean(), "d_fake": (fake < 0).float().mean()}


def logit_gap(train: Float[Tensor, " N"], held_out: Float[Tensor, " N"]) -> dict[str, float]:
    """Compare D's logits of training images and of held-out real images.

    ``d_train`` and ``d_held_out`` are their means, ``d_gap`` is the difference in units of their pooled standard deviation,
    because the scale of logits differs between runs: 0 if D treats both alike, large if it has memorized training images.
    """
    difference = train.mean() - held_out.mean()
    deviation = ((train.var() + held_out.var()) / 2).sqrt()
    gap = difference / deviation.clamp(min=1e-12)
    return {"d_train": float(train.mean()), "d_held_out": float(held_out.mean()), "d_gap": float(gap)}
