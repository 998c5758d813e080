"""StyleGAN's generator (v1; Karras et al. 2019): a mapping network and a progressively grown synthesis network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.dcgan_layers import power_of_two
from networks.stylegan_layers import (
    SLOPE,
    EqualizedConv2d,
    EqualizedLinear,
    StyledLayer,
    channels_at,
    pixel_norm,
    upsample,
)
from utils.errors import check_choice, check_number

# Noise of each layer: sampled from a generator (None), zero, constant, or given.
Noise: TypeAlias = Literal["zero", "fixed"] | Sequence[Tensor] | None


class MappingNetwork(nn.Module):
    """Map z to w: normalize to mean square 1, then apply fully connected layers that learn at 1 % of the rate."""

    def __init__(
        self, latent_size: int = 512, style_size: int = 512, layers: int = 8, lr_multiplier: float = 0.01
    ) -> None:
        super().__init__()
        sizes = [latent_size] + [style_size] * layers
        self.layers = nn.ModuleList(
            EqualizedLinear(before, after, lr_multiplier=lr_multiplier) for before, after in pairwise(sizes)
        )

    def forward(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B W_"]:
        x = pixel_norm(z)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return x


class SynthesisNetwork(nn.Module):
    """Styles to an image: a learned 4² constant, then two layers and a 1² convolution to image channels per resolution.

    Args:
        resolution: of the fully grown network, a power of two of at least 4.
        out_channels: of the image, whose values are unbounded.
        style_size: length of w.
        channel_base: see :func:`channels_at`.
        channel_max: see :func:`channels_at`.
    """

    def __init__(
        self,
        resolution: int = 128,
        out_channels: int = 3,
        style_size: int = 512,
        channel_base: int = 8192,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.levels = power_of_two("resolution", resolution, 4) - 1
        widths = [channels_at(4 << level, channel_base, channel_max) for level in range(self.levels)]
        self.constant = nn.Parameter(torch.ones(1, widths[0], 4, 4))
        self.layers = nn.ModuleList()
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else 0
            self.layers.append(StyledLayer(before, width, style_size, up=level > 0))
            self.layers.append(StyledLayer(width, width, style_size))
        self.to_image = nn.ModuleList(EqualizedConv2d(width, out_channels, 1, gain=1.0) for width in widths)

    def forward(
        self, w: Float[Tensor, "B L W_"], resolution: int, fade: float, noise: Sequence[Tensor] | None
    ) -> Float[Tensor, "B C R R"]:
        """Return the image at ``resolution``; see :meth:`StyleGANGenerator.forward`.

        Args:
            w: one style per layer; at least the ``2 log2(resolution) - 2`` of this resolution.
            resolution: R, from 4 to that of the fully grown network.
            fade: weight of this resolution's image relative to the upsampled image of half the resolution.
            noise: ``(B or 1, 1, r, r)`` for each layer, or None.
        """
        level = check_growth(resolution, fade, self.resolution)
        x = before = self.constant.to(w.dtype).expand(len(w), -1, -1, -1)
        for i in range(2 * level + 2):
            if i == 2 * level:
                before = x
            x = self.layers[i](x, w[:, i], None if noise is None else noise[i])
        image = self.to_image[level](x)
        if fade < 1:
            image = torch.lerp(upsample(self.to_image[level - 1](before)), image, fade)
        return image


class StyleGANGenerator(nn.Module):
    """Latents to images, through styles w that control every layer's statistics.

    All randomness is explicit: the crossover of style mixing and the noise come from the passed ``torch.Generator``, in this
    order, or are passed themselves.

    In training mode each call moves ``style_average``, the mean of w used for truncation, by 1 - 0.995 toward the batch's
    mean. It is a buffer: an EMA of the weights should copy it.

    Args:
        resolution: of the fully grown network, a power of two of at least 4.
        out_channels: of the image, whose values are unbounded.
        latent_size: length of z, standard normal.
        style_size: length of w.
        mapping_layers: number of layers of the mapping network.
        mapping_lr_multiplier: learning rate of the mapping network relative to the other layers.
        mixing_probability: probability that a sampled crossover mixes styles.
        channel_base: see :func:`~networks.stylegan_layers.channels_at`; use less on small machines.
        channel_max: see :func:`~networks.stylegan_layers.channels_at`.

    Raises:
        InputError: if ``resolution`` is not a power of two of at least 4, or another number is out of range.
    """

    style_average: Tensor

    def __init__(
        self,
        resolution: int = 128,
        out_channels: int = 3,
        latent_size: int = 512,
        style_size: int = 512,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        mixing_probability: float = 0.9,
        channel_base: int = 8192,
        channel_max: int = 512,
    ) -> None:
        super().__init__()
        check_number("out_channels", out_channels, at_least=1)
        check_number("latent_size", latent_size, at_least=1)
        check_number("style_size", style_size, at_least=1)
        check_number("mapping_layers", mapping_layers, at_least=1)
        check_number("mapping_lr_multiplier", mapping_lr_multiplier, above=0)
        check_number("mixing_probability", mixing_probability, at_least=0, at_most=1)
        self.resolution, self.out_channels, self.latent_size = resolution, out_channels, latent_size
        self.mixing_probability = mixing_probability
        self.mapping = MappingNetwork(latent_size, style_size, mapping_layers, mapping_lr_multiplier)
        self.synthesis = SynthesisNetwork(resolution, out_channels, style_size, channel_base, channel_max)
        self.register_buffer("style_average", torch.zeros(style_size))
        for i, size in enumerate(self.noise_sizes(resolution)):
            fixed = torch.randn(1, 1, size, size, generator=torch.Generator("cpu").manual_seed(i), device="cpu")
            self.register_buffer(f"fixed_noise_{i}", fixed, persistent=False)

    def forward(
        self,
        z: Float[Tensor, "B Z"],
        resolution: int | None = None,
        fade: float = 1.0,
        *,
        mix: Float[Tensor, "B Z"] | None = None,
        crossover: int | None = None,
        truncation: float | None = None,
        truncation_cutoff: int | None = 8,
        noise: Noise = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B C R R"]:
        """Return the image at ``resolution``, or ``(1 - fade) upsample(previous) + fade new`` while it fades in.

        Args:
            z: latents.
            resolution: R, from 4 to that of the fully grown network (None).
            fade: in [0, 1]; 1 is fully grown, 0 is the upsampled image of half the resolution.
            mix: second latents, whose styles are used by the layers from ``crossover`` on.
            crossover: from 1 to the number of layers (no mixing); if None, one per batch is sampled from ``generator``.
            truncation: psi of ``w' = average + psi (w - average)``. None for training and for FID.
            truncation_cutoff: the layers below it are truncated (8 as published); None truncates all layers.
            noise: see :data:`Noise`; given tensors are ``(B or 1, 1, r, r)`` with the sizes of :meth:`noise_sizes`.
            generator: source of random noise and crossover; the same on every device.

        Raises:
            ValueError: if ``generator`` is missing but needed, or resolution, fade, crossover or noise is invalid.
        """
        resolution = self.resolution if resolution is None else resolution
        check_growth(resolution, fade, self.resolution)
        w = self.styles(z, resolution, mix, crossover, truncation, truncation_cutoff, generator)
        return self.synthesis(w, resolution, fade, self._noise(noise, w, resolution, generator))

    def from_style(self, w: Float[Tensor, "B W_"], resolution: int, fade: float = 1.0) -> Float[Tensor, "B C R R"]:
        """Return the image of one style for all layers, with fixed noise; see :meth:`forward`."""
        layers = len(self.noise_sizes(resolution))
        styles = w[:, None].expand(-1, layers, -1)
        return self.synthesis(styles, resolution, fade, self._noise("fixed", styles, resolution, None))

    def styles(
        self,
        z: Float[Tensor, "B Z"],
        resolution: int,
        mix: Float[Tensor, "B Z"] | None = None,
        crossover: int | None = None,
        truncation: float | None = None,
        truncation_cutoff: int | None = 8,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B L W_"]:
        """Return one style for each of the ``L = 2 log2(resolution) - 2`` layers; see :meth:`forward`."""
        layers = len(self.noise_sizes(resolution))
        w = self.mapping(z)
        if self.training:
            self.style_average.lerp_(w.detach().to(self.style_average.dtype).mean(0), 1 - 0.995)
        styles = w[:, None].expand(-1, layers, -1)
        index = torch.arange(layers, device=w.device)[:, None]
        if mix is not None:
            crossover = self.sample_crossover(resolution, generator) if crossover is None else crossover
            if not 1 <= crossover <= layers:
                raise ValueError(f"crossover must be between 1 and {layers}, got {crossover}")
            styles = torch.where(index < crossover, styles, self.mapping(mix)[:, None])
        if truncation is not None:
            truncated = torch.lerp(self.style_average.to(styles.dtype).expand_as(styles), styles, truncation)
            cutoff = layers if truncation_cutoff is None else truncation_cutoff
            styles = torch.where(index < cutoff, truncated, styles)
        return styles

    def sample_crossover(self, resolution: int, generator: torch.Generator | None) -> int:
        """Sample a layer uniformly from 1 on with ``mixing_probability``, otherwise the number of layers: no mixing."""
        layers = len(self.noise_sizes(resolution))
        generator = require_generator(generator, "the crossover")
        u, v = torch.rand(2, generator=generator, device=generator.device).tolist()
        return 1 + int(v * (layers - 1)) if u < self.mixing_probability else layers

    def sample_noise(
        self, batch: int, resolution: int, generator: torch.Generator | None
    ) -> list[Float[Tensor, "B 1 _ _"]]:
        """Sample standard normal noise for each layer, lowest resolution first, on the generator's device."""
        generator = require_generator(generator, "the noise")
        return [
            torch.randn(batch, 1, size, size, generator=generator, device=generator.device)
            for size in self.noise_sizes(resolution)
        ]

    @classmethod
    def split_noise(cls, numbers: Float[Tensor, "B N"], resolution: int) -> list[Float[Tensor, "B 1 _ _"]]:
        """Split the :meth:`noise_count` numbers of each sample into the noise of each layer, lowest resolution first."""
        sizes = cls.noise_sizes(resolution)
        return [
            part.view(-1, 1, size, size)
            for part, size in zip(numbers.split([size**2 for size in sizes], 1), sizes, strict=True)
        ]

    @classmethod
    def noise_count(cls, resolution: int) -> int:
        """Return how many numbers the noise of one sample has."""
        return sum(size**2 for size in cls.noise_sizes(resolution))

    @staticmethod
    def noise_sizes(resolution: int) -> list[int]:
        """Return the size of each layer's noise: 4, 4, 8, 8, ..., R, R."""
        return [size for level in range(power_of_two("resolution", resolution, 4) - 1) for size in [4 << level] * 2]

    def _noise(
        self, noise: Noise, w: Float[Tensor, "B L W_"], resolution: int, generator: torch.Generator | None
    ) -> Sequence[Tensor] | None:
        if isinstance(noise, str):
            check_choice("noise", noise, ("zero", "fixed"))
            fixed = [getattr(self, f"fixed_noise_{i}") for i in range(w.shape[1])]
            return {"zero": None, "fixed": fixed}[noise]
        if noise is None:
            noise = self.sample_noise(len(w), resolution, generator)
        return [n.to(w) for n in noise]


def require_generator(generator: torch.Generator | None, purpose: str) -> torch.Generator:
    """Return the generator. Sampling from torch's global state is an error, because checkpoints do not include it.

    Raises:
        ValueError: if ``generator`` is None.
    """
    if generator is None:
        raise ValueError(f"pass a torch.Generator to sample {purpose}")
    return generator


def check_growth(resolution: int, fade: float, largest: int) -> int:
    """Return the level of a resolution: 0 for 4².

    Raises:
        ValueError: if the network does not have the resolution, or ``fade`` is outside [0, 1] or below 1 at the lowest
            resolution.
    """
    level = power_of_two("resolution", resolution, 4) - 2
    if resolution > largest:
        raise ValueError(f"resolution must be at most {largest}, got {resolution}")
    if not 0 <= fade <= 1 or (fade < 1 and level == 0):
        raise ValueError(f"fade must be between 0 and 1, and 1 at the lowest resolution, got {fade} at {resolution}")
    return level
