"""StyleGAN's generator (v1; Karras et al. 2019): a mapping network, and a synthesis network that grows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from networks.stylegan_layers import (
    SLOPE,
    EqualizedConv2d,
    EqualizedLinear,
    StyledLayer,
    channels_at,
    double,
    pixel_norm,
)
from networks.voxel_generator import power_of_two

# Random numbers a pixel for each layer: drawn from a generator (None), none at all, the same for ever, or given.
Noise: TypeAlias = Literal["zero", "fixed"] | Sequence[Tensor] | None


class MappingNetwork(nn.Module):
    """z to w: normalization to mean square 1, then fully connected layers with leaky ReLU that learn at 1 % of the rate."""

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
    """Styles to an image: a learnt 4² constant, two layers at each resolution, a 1² convolution to channels at each.

    Args:
        resolution: of the full-grown network, a power of two of at least 4.
        out_channels: of the image. Nothing bounds it.
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
        """The image of ``resolution``; see :meth:`StyleGANGenerator.forward`.

        Args:
            w: a style for each layer; at least the ``2 log2(resolution) - 2`` that this resolution has.
            resolution: 4 to the full-grown one.
            fade: weight of this resolution's image over the doubled one of half the resolution.
            noise: ``(B or 1, 1, R, R)`` for each layer, or None.
        """
        level = check_growth(resolution, fade, self.resolution)
        x = before = self.constant.expand(len(w), -1, -1, -1)
        for i in range(2 * level + 2):
            if i == 2 * level:
                before = x
            x = self.layers[i](x, w[:, i], None if noise is None else noise[i])
        image = self.to_image[level](x)
        if fade < 1:
            image = torch.lerp(double(self.to_image[level - 1](before)), image, fade)
        return image


class StyleGANGenerator(nn.Module):
    """Latents to images, by way of styles w that steer every layer's statistics.

    No randomness is hidden: noise and the crossover of style mixing come from the ``torch.Generator`` that is passed, in
    this order, or are passed themselves.

    In training mode each call moves ``style_average``, the mean of w that truncation pulls toward, by 1 - 0.995 toward the
    batch's mean. It is a buffer: an average of the weights should copy it, or call :meth:`measure_average`.

    Args:
        resolution: of the full-grown network, a power of two of at least 4.
        out_channels: of the image. Nothing bounds it.
        latent_size: length of z, standard normal.
        style_size: length of w.
        mapping_layers: of the mapping network.
        mapping_lr_multiplier: its learning rate beside the others'.
        mixing_probability: of a crossover that is drawn; otherwise nothing is mixed.
        channel_base: feature maps, see :func:`~networks.stylegan_layers.channels_at`; lower for small machines.
        channel_max: likewise.
    """

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
        """The image of ``resolution``, or in a fade ``(1 - fade) double(previous) + fade new``.

        Args:
            z: latents.
            resolution: R, 4 to the full-grown one (None).
            fade: in [0, 1]; 1 is fully grown, 0 the doubled image of half the resolution.
            mix: second latents, whose styles the layers from ``crossover`` on take.
            crossover: 1 to the number of layers (nothing is mixed); drawn from ``generator`` if None, one a batch.
            truncation: psi of ``w' = average + psi (w - average)``. None for training and for FID.
            truncation_cutoff: the layers below it are truncated (8 as published); None is all.
            noise: see :data:`Noise`; given tensors are ``(B or 1, 1, r, r)`` with the sizes of :meth:`noise_sizes`.
            generator: where random noise and crossover come from; the same on every device.

        Raises:
            ValueError: random numbers are needed and there is no generator; a resolution, fade or crossover that does
                not exist.
        """
        resolution = self.resolution if resolution is None else resolution
        check_growth(resolution, fade, self.resolution)
        w = self.styles(z, resolution, mix, crossover, truncation, truncation_cutoff, generator)
        return self.synthesis(w, resolution, fade, self._noise(noise, w, resolution, generator))

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
        """A style for each of the ``L = 2 log2(resolution) - 2`` layers; arguments as of :meth:`forward`."""
        layers = len(self.noise_sizes(resolution))
        w = self.mapping(z)
        if self.training:
            self.style_average.lerp_(w.detach().to(self.style_average.dtype).mean(0), 1 - 0.995)
        styles = w[:, None].expand(-1, layers, -1)
        index = torch.arange(layers, device=w.device)[:, None]
        if mix is not None:
            crossover = self.sample_crossover(resolution, generator) if crossover is None else crossover
            if not 1 <= crossover <= layers:
                raise ValueError(f"crossover must lie between 1 and {layers}, got {crossover}")
            styles = torch.where(index < crossover, styles, self.mapping(mix)[:, None])
        if truncation is not None:
            truncated = torch.lerp(self.style_average.to(styles.dtype).expand_as(styles), styles, truncation)
            cutoff = layers if truncation_cutoff is None else truncation_cutoff
            styles = torch.where(index < cutoff, truncated, styles)
        return styles

    def sample_crossover(self, resolution: int, generator: torch.Generator | None) -> int:
        """A layer from 1 on, all equally likely, with ``mixing_probability``; else the number of layers: no mixing."""
        layers = len(self.noise_sizes(resolution))
        u, v = torch.rand(2, generator=needed(generator, "the crossover"), device=generator.device).tolist()
        return 1 + int(v * (layers - 1)) if u < self.mixing_probability else layers

    def sample_noise(
        self, batch: int, resolution: int, generator: torch.Generator | None
    ) -> list[Float[Tensor, "B 1 _ _"]]:
        """Standard normal noise for each layer, lowest first, on the generator's device."""
        device = needed(generator, "the noise").device
        return [
            torch.randn(batch, 1, size, size, generator=generator, device=device)
            for size in self.noise_sizes(resolution)
        ]

    @staticmethod
    def noise_sizes(resolution: int) -> list[int]:
        """Side of each layer's noise: 4, 4, 8, 8, ..., R, R."""
        return [size for level in range(power_of_two("resolution", resolution, 4) - 1) for size in [4 << level] * 2]

    @torch.no_grad()
    def measure_average(self, generator: torch.Generator, samples: int = 10_000) -> None:
        """Set ``style_average`` to the mean of w over so many latents: a function of the weights alone."""
        z = torch.randn(samples, self.latent_size, generator=generator, device=generator.device)
        self.style_average.copy_(self.mapping(z.to(self.style_average)).mean(0))

    def _noise(
        self, noise: Noise, w: Float[Tensor, "B L W_"], resolution: int, generator: torch.Generator | None
    ) -> Sequence[Tensor] | None:
        if isinstance(noise, str):
            fixed = [getattr(self, f"fixed_noise_{i}") for i in range(w.shape[1])]
            return {"zero": None, "fixed": fixed}[noise]
        if noise is None:
            noise = self.sample_noise(len(w), resolution, generator)
        return [n.to(w) for n in noise]


def needed(generator: torch.Generator | None, purpose: str) -> torch.Generator:
    """Refuse to draw from torch's global state, which no checkpoint holds."""
    if generator is None:
        raise ValueError(f"a torch.Generator is needed to draw {purpose}")
    return generator


def check_growth(resolution: int, fade: float, largest: int) -> int:
    """The level of a resolution: 0 for 4².

    Raises:
        ValueError: a resolution that the network does not have, or a fade outside [0, 1] or with nothing to fade from.
    """
    level = power_of_two("resolution", resolution, 4) - 2
    if resolution > largest:
        raise ValueError(f"resolution must be at most {largest}, got {resolution}")
    if not 0 <= fade <= 1 or (fade < 1 and level == 0):
        raise ValueError(
            f"fade must lie between 0 and 1, and be 1 at the lowest resolution, got {fade} at {resolution}"
        )
    return level
