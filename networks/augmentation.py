"""Differentiable augmentation of the images that a discriminator sees: fixed (DiffAugment) or adaptive (ADA)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from utils.distributed import rank_count, sum_over_ranks
from utils.errors import InputError, check_number


class DiffAugment(nn.Module):
    """DiffAugment (Zhao et al. 2020): random transforms T of all images that D sees, real or generated.

    The transforms are mirror, colour, translation and cutout, in this order, each with its own random numbers per sample.
    T is affine in the image for given random numbers, so gradients pass through it to the generator, twice for R1.

    Args:
        translation: largest shift along each axis as a fraction of the image size, in whole pixels; pixels shifted in are
            black.
        cutout: side of a square that is set to black as a fraction of the image size. Its centre is uniform over the image,
            so the square may extend beyond it.
        color: change brightness by up to ±1/4, saturation by a factor in [0, 2] and contrast by a factor in [1/2, 3/2], as
            published; for RGB images. The results may leave [0, 1].
        mirror: flip left and right with probability 1/2.

    Raises:
        InputError: a fraction outside of [0, 1]; no transform.
    """

    numbers = 12  # random numbers per sample

    def __init__(
        self, translation: float = 0.125, cutout: float = 0.5, color: bool = False, mirror: bool = False
    ) -> None:
        super().__init__()
        check_number("translation", translation, at_least=0, at_most=1)
        check_number("cutout", cutout, at_least=0, at_most=1)
        if not (translation or cutout or color or mirror):
            raise InputError("augment has no transform; set translation, cutout, color or mirror, or augment to null")
        self.translation, self.cutout, self.color, self.mirror = translation, cutout, color, mirror

    def applies(self, uniform: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return which samples get a transform, given a random number of each: all."""
        return torch.ones_like(uniform, dtype=torch.bool)

    def forward(self, images: Float[Tensor, "B C H W"], uniform: Float[Tensor, "B 12"]) -> Float[Tensor, "B C H W"]:
        """Return T(images). Equal random numbers, uniform in [0, 1), give the same T."""
        size, u = tuple(images.shape[2:]), uniform.unbind(1)
        if self.mirror:
            images = _where(self.applies(u[0]) & (u[1] < 0.5), images.flip(-1), images)
        if self.color:
            images = _where(self.applies(u[2]), change_color(images, *u[3:6]), images)
        if self.translation:
            largest = [int(side * self.translation + 0.5) for side in size]
            down, right = (_integer(x, 2 * n + 1) - n for x, n in zip(u[7:9], largest, strict=True))
            images = _where(self.applies(u[6]), translate(images, down, right), images)
        if self.cutout:
            sides = [int(side * self.cutout + 0.5) for side in size]
            row, column = (_integer(x, n + 1 - cut % 2) for x, n, cut in zip(u[10:12], size, sides, strict=True))
            keep = ~in_square(size, row, column, sides[0], sides[1])[:, None]
            images = _where(self.applies(u[9]), images * keep, images)
        return images


class AdaptiveAugment(DiffAugment):
    """ADA (Karras et al. 2020): each transform is applied with probability p, which follows the overfitting of D.

    The heuristic is ``r_t = E[sign D(T(real))]``: p rises while r_t is above ``target`` and falls while it is below. p
    starts at 0. It and the running sums of r_t are buffers, so checkpoints contain them.

    The transforms are those of :class:`DiffAugment`; the published pipeline has more.

    Args:
        target: of r_t.
        interval: steps between two changes of p.
        adjust_kimg: thousands of real images in which p can rise from 0 to 1.
        max_probability: upper limit of p. Above about 0.8 transforms can leak into the generated images.
        translation, cutout, color, mirror: see :class:`DiffAugment`.

    Raises:
        InputError: a number out of range; no transform.
    """

    probability: Float[Tensor, ""]
    sign_sum: Float[Tensor, ""]
    sign_count: Float[Tensor, ""]

    def __init__(
        self,
        target: float = 0.6,
        interval: int = 4,
        adjust_kimg: float = 500.0,
        max_probability: float = 0.8,
        translation: float = 0.125,
        cutout: float = 0.5,
        color: bool = False,
        mirror: bool = False,
    ) -> None:
        super().__init__(translation, cutout, color, mirror)
        check_number("target", target, at_least=-1, at_most=1)
        check_number("interval", interval, at_least=1)
        check_number("adjust_kimg", adjust_kimg, above=0)
        check_number("max_probability", max_probability, above=0, at_most=1)
        self.target, self.interval = target, interval
        self.adjust_kimg, self.max_probability = adjust_kimg, max_probability
        for name in ("probability", "sign_sum", "sign_count"):
            self.register_buffer(name, torch.zeros(()))

    def applies(self, uniform: Float[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Return which samples get a transform: each with probability p."""
        return uniform < self.probability

    @torch.no_grad()
    def adapt(self, real_logits: Float[Tensor, " b"], step: int) -> None:
        """Count the signs of D's logits of this rank's real images over all ranks, and change p every ``interval`` steps.

        Every rank must call it, in every step, with the number of the step. The host does not wait for the device.
        """
        self.sign_sum += sum_over_ranks(real_logits.detach().float().sign().sum())
        self.sign_count += len(real_logits) * rank_count()
        if (step + 1) % self.interval == 0:
            change = (
                (self.sign_sum / self.sign_count - self.target).sign() * self.sign_count / (1000 * self.adjust_kimg)
            )
            self.probability.add_(change).clamp_(0, self.max_probability)
            self.sign_sum.zero_()
            self.sign_count.zero_()


def change_color(
    images: Float[Tensor, "B C H W"],
    brightness: Float[Tensor, " B"],
    saturation: Float[Tensor, " B"],
    contrast: Float[Tensor, " B"],
) -> Float[Tensor, "B C H W"]:
    """Add ``(brightness - 1/2) / 2``, then scale the distance from the pixel's mean over channels by ``2 saturation``, then
    that from the image's mean by ``contrast + 1/2``; all three are in [0, 1).

    The published addend is twice as large because its images are in [-1, 1].
    """
    b, s, c = (x.to(images.dtype)[:, None, None, None] for x in (brightness, saturation, contrast))
    images = images + (b - 0.5) / 2
    grey = images.mean(1, keepdim=True)
    images = grey + 2 * s * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (c + 0.5) * (images - mean)


def translate(
    images: Float[Tensor, "B C H W"], down: Int[Tensor, " B"], right: Int[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Shift images by whole pixels, and fill with black."""
    for dim, shift in ((2, down), (3, right)):
        size = images.shape[dim]
        source = torch.arange(size, device=images.device) - shift[:, None]
        inside = (source >= 0) & (source < size)
        shape = (-1, 1, size, 1) if dim == 2 else (-1, 1, 1, size)
        # A cyclic shift reads every pixel once, so the gradient is exact in any order of summation.
        index = (source % size).view(shape).expand(images.shape)
        images = images.gather(dim, index) * inside.view(shape)
    return images


def in_square(
    size: tuple[int, ...], row: Int[Tensor, " B"], column: Int[Tensor, " B"], height: int, width: int
) -> Bool[Tensor, "B H W"]:
    """Return the pixels in a rectangle of ``height`` by ``width`` pixels whose centre is at ``row`` and ``column``."""
    spans = []
    for side, centre, extent in zip(size, (row, column), (height, width), strict=True):
        offset = torch.arange(side, device=centre.device) - (centre - extent // 2)[:, None]
        spans.append((offset >= 0) & (offset < extent))
    return spans[0][:, :, None] & spans[1][:, None, :]


def _integer(uniform: Float[Tensor, " B"], n: int) -> Int[Tensor, " B"]:
    """Return uniform integers in [0, n)."""
    return (uniform * n).long().clamp(max=n - 1)  # the product can round up to n


def _where(
    condition: Bool[Tensor, " B"], changed: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B C H W"]:
    return torch.where(condition[:, None, None, None], changed, images)
