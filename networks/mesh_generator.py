"""MeshGAN's generator (sections 6 and 7): latents to a textured mesh and a background."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from networks.dcgan_layers import power_of_two
from networks.stylegan_generator import Noise, StyleGANGenerator, require_generator
from networks.stylegan_layers import downsample
from renderers import InputError, TriangleMesh, grid_mesh
from utils.errors import check_number
from utils.transfer import to_device


@dataclass(frozen=True)
class GeneratedScene:
    """A batch of generated scenes.

    Args:
        mesh: N² vertices and one topology; its texture is ``(B, 3, 2N, 2N)`` in [0, 1].
        background: ``(B, 3, N, N)`` in [0, 1], the crop behind the object.
        full_background: ``(B, 3, 2N, 2N)`` in [0, 1], the uncropped background.
    """

    mesh: TriangleMesh
    background: Tensor
    full_background: Tensor

    def __len__(self) -> int:
        return len(self.mesh)


class MeshGenerator(nn.Module):
    """Two StyleGANs: ``G_o`` generates K shape images and a texture, ``G_b`` a background, all 2N x 2N for N x N images.

    Shape images are downsampled to N x N, blurred and summed to a pyramid (eq. 13), added to an initial disc and limited to
    a ball (eq. 14). Each pixel of the result is a vertex of the circular :func:`renderers.grid_mesh`, x right, y up.

    The paper leaves the following open; the choices are ours:

    - The shape image is downsampled by 2 (mean over 2² pixels), not the texture as printed: otherwise the sizes of section
      6 do not match (N x N vertices, texture 2N).
    - The blur's sigma is in pixels of the N x N shape image for every N. As a resolution fades in, sigma goes from twice
      that value, which is the previous resolution's sigma in new pixels, to that value, so that shapes do not jump during
      growth. The border is mirrored, which preserves the mean.
    - The pyramid deforms a flat disc of ``initial_radius`` around the origin that faces +z. The pyramid is multiplied by
      ``shape_scale``, so that training starts with a disc and not with a crumpled surface. The disc is first mapped through
      the inverse of eq. 14.
    - Colours are ``sigmoid(x)`` of StyleGAN's unbounded output.
    - Style mixing samples a separate crossover for each of the two networks.

    Args:
        image_size: N of the fully grown generator, a power of two of at least 4.
        latent_size: length of each network's latent; ``self.latent_size`` is the length of both, object first.
        pyramid_levels: K, at most 16; 0 is one shape image without blur (the paper's ablation).
        max_size: s_max of eq. 14, or None for no constraint (another ablation).
        initial_radius: of the disc.
        initial_bulge: how far the disc's middle protrudes toward +z. The paper starts flat (0); a bulge biases the
            hollow-mask ambiguity.
        shape_scale: world units per unit of the shape images, whose initial standard deviation is about 2.
        **stylegan: of both networks, see :class:`~networks.StyleGANGenerator`.

    Raises:
        InputError: if ``image_size`` is not a power of two, another number is out of range, or the disc exceeds
            ``max_size``.
    """

    def __init__(
        self,
        image_size: int = 128,
        latent_size: int = 512,
        pyramid_levels: int = 4,
        max_size: float | None = 1.3,
        initial_radius: float = 0.5,
        initial_bulge: float = 0.0,
        shape_scale: float = 0.02,
        **stylegan: Any,
    ) -> None:
        super().__init__()
        power_of_two("image_size", image_size, 4)
        check_number("pyramid_levels", pyramid_levels, at_least=0, at_most=16)
        check_number("initial_radius", initial_radius, above=0)
        check_number("initial_bulge", initial_bulge)
        check_number("shape_scale", shape_scale, above=0)
        if max_size is not None:
            check_number("max_size", max_size, above=0)
        if max_size is not None and not math.hypot(initial_radius, initial_bulge) < max_size:
            raise InputError(f"initial_radius and initial_bulge must stay within max_size {max_size}")
        self.image_size, self.latent_size = image_size, 2 * latent_size
        self.pyramid_levels, self.max_size, self.shape_scale = pyramid_levels, max_size, shape_scale
        self.shape_images = max(pyramid_levels, 1)
        channels = 3 * self.shape_images + 3
        self.object = StyleGANGenerator(2 * image_size, channels, latent_size, **stylegan)
        self.background = StyleGANGenerator(2 * image_size, 3, latent_size, **stylegan)
        # These depend only on the arguments, so checkpoints omit them. Each call returns the same tensors, so that the
        # rasterizer checks a topology once.
        for size in self.sizes:
            faces, uvs = grid_mesh(size)
            disc = initial_disc(uvs, initial_radius, initial_bulge)
            if max_size is not None:
                disc = unlimit_size(disc, max_size)
            self.register_buffer(f"faces_{size}", faces, persistent=False)
            self.register_buffer(f"uvs_{size}", uvs, persistent=False)
            self.register_buffer(f"disc_{size}", disc, persistent=False)

    @property
    def sizes(self) -> list[int]:
        """The values of N that the generator can be grown to."""
        return [1 << i for i in range(2, power_of_two("image_size", self.image_size, 4) + 1)]

    def forward(
        self,
        z: Float[Tensor, "B Z"],
        size: int | None = None,
        fade: float = 1.0,
        *,
        offsets: Int[Tensor, "B 2"] | None = None,
        mix: Float[Tensor, "B Z"] | None = None,
        crossover: tuple[int, int] | None = None,
        truncation: float | None = None,
        truncation_cutoff: int | None = 8,
        noise: Noise | tuple[Noise, Noise] = None,
        generator: torch.Generator | None = None,
    ) -> GeneratedScene:
        """Generate textured meshes and backgrounds.

        Args:
            z: latents of the object and of the background, concatenated; they are independent, as in the paper.
            size: N, one of ``sizes``; None is fully grown. The networks work at 2N.
            fade: in [0, 1], how far the resolution has faded in; see :class:`~networks.StyleGANGenerator`.
            offsets: row and column of the background's crop, 0 to N (:func:`sample_offsets`); None is the centre.
            mix: second latents, for style mixing in both networks.
            crossover: of the object's and of the background's network; sampled from ``generator`` if None.
            truncation: psi, for display; None for training and FID.
            truncation_cutoff: the layers of each network below it are truncated (8 as published); None truncates all.
            noise: of both networks, or a pair.
            generator: source of crossover and noise that are not given: first the object's, then the background's.

        Raises:
            ValueError: if size, fade, crossover or offsets are invalid, or ``generator`` is missing but needed.
        """
        size = self.image_size if size is None else size
        if size not in self.sizes:
            raise ValueError(f"size must be one of {self.sizes}, got {size}")
        latents = z.chunk(2, 1)
        mixes = mix.chunk(2, 1) if mix is not None else (None, None)
        crossovers = crossover if crossover is not None else (None, None)
        noises = noise if isinstance(noise, tuple) else (noise, noise)
        generated, full_background = (
            network(
                latents[i],
                2 * size,
                fade,
                mix=mixes[i],
                crossover=crossovers[i],
                truncation=truncation,
                truncation_cutoff=truncation_cutoff,
                noise=noises[i],
                generator=generator,
            )
            for i, network in enumerate((self.object, self.background))
        )
        return self._assemble(generated, full_background, fade, offsets)

    def map_styles(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B P"]:
        """Return the styles w of both networks, concatenated, the object's first; not truncated."""
        return torch.cat([n.mapping(x) for n, x in zip((self.object, self.background), z.chunk(2, 1), strict=True)], 1)

    def from_styles(self, w: Float[Tensor, "B P"], size: int | None = None, fade: float = 1.0) -> GeneratedScene:
        """Generate scenes from :meth:`map_styles` instead of latents, with fixed noise and the background's centre.

        Args:
            w: one style for all layers of each network, with gradients.
            size: see :meth:`forward`.
            fade: see :meth:`forward`.
        """
        size = self.image_size if size is None else size
        generated, full_background = (
            network.from_style(style, 2 * size, fade)
            for network, style in zip((self.object, self.background), w.chunk(2, 1), strict=True)
        )
        return self._assemble(generated, full_background, fade, None)

    def _assemble(
        self,
        generated: Float[Tensor, "B C M M"],
        full_background: Float[Tensor, "B 3 M M"],
        fade: float,
        offsets: Int[Tensor, "B 2"] | None,
    ) -> GeneratedScene:
        """Make scenes of the images of both networks."""
        size = generated.shape[-1] // 2
        # Half precision does not hold coordinates.
        generated, full_background = (
            x.to(torch.promote_types(x.dtype, torch.float32)) for x in (generated, full_background)
        )
        with torch.autocast(generated.device.type, enabled=False):
            vertices = self.shape(generated[:, :-3], fade).flatten(2).mT
        mesh = TriangleMesh(
            vertices, getattr(self, f"faces_{size}"), getattr(self, f"uvs_{size}"), texture=generated[:, -3:].sigmoid()
        )
        full_background = full_background.sigmoid()
        return GeneratedScene(mesh, crop(full_background, offsets), full_background)

    def shape(self, images: Float[Tensor, "B C M M"], fade: float = 1.0) -> Float[Tensor, "B 3 N N"]:
        """Compute vertex positions (x, y, z) from the K shape images of 2N x 2N: eqs. 13 and 14."""
        images = downsample(images)
        size = images.shape[-1]
        if self.pyramid_levels:
            images = pyramid(images.unflatten(1, (self.shape_images, 3)), 2 ** (1 - fade))
        points = getattr(self, f"disc_{size}") + self.shape_scale * images
        return points if self.max_size is None else limit_size(points, self.max_size)


def sample_offsets(batch: int, size: int, generator: torch.Generator | None) -> Int[Tensor, "B 2"]:
    """Sample the row and column where N x N backgrounds are cropped from 2N x 2N ones, uniform in 0 to N."""
    generator = require_generator(generator, "the crop of the background")
    return torch.randint(0, size + 1, (batch, 2), generator=generator, device=generator.device)


def crop(images: Float[Tensor, "B C M M"], offsets: Int[Tensor, "B 2"] | None) -> Float[Tensor, "B C N N"]:
    """Crop N x N from each 2N x 2N image at its offset, or at the centre.

    Raises:
        ValueError: if offsets on the CPU are outside 0 to N. On a GPU a check would wait for the device.
    """
    b, c, m, n = *images.shape[:3], images.shape[-1] // 2
    if offsets is None:
        start = n // 2
        return images[:, :, start : start + n, start : start + n]
    if offsets.device.type == "cpu" and not bool(((offsets >= 0) & (offsets <= n)).all()):
        raise ValueError(f"offsets must be between 0 and {n}, got {offsets.tolist()}")
    index = to_device(offsets, images.device)[..., None] + torch.arange(n, device=images.device)
    rows, columns = index[:, 0].view(b, 1, n, 1), index[:, 1].view(b, 1, 1, n)
    return images.gather(2, rows.expand(b, c, n, m)).gather(3, columns.expand(b, c, n, n))


def pyramid(images: Float[Tensor, "B K C N N"], stretch: float = 1.0) -> Float[Tensor, "B C N N"]:
    """Compute ``sum over k of blur(s_k, sigma = 2^k) / 2^k`` (eq. 13, where the paper prints s_i).

    ``stretch`` multiplies every sigma.
    """
    levels, size = images.shape[1], images.shape[-1]
    blurs = torch.stack([blur_matrix(size, 2**k * stretch, images.device) for k in range(levels)]).to(images.dtype)
    weights = 0.5 ** torch.arange(levels, device=images.device).to(images.dtype)
    along = (blurs * weights.sqrt()[:, None, None])[:, None]
    return (along @ images @ along.mT).sum(1)


def blur_matrix(size: int, sigma: float, device: torch.device | str = "cpu") -> Float[Tensor, "N N"]:
    """Return the Gaussian blur of N pixels as a float64 matrix, so that ``G @ image @ G.T`` blurs both dimensions.

    The kernel has a radius of ``ceil(3 sigma)`` pixels and sums to 1. Beyond the border the signal is mirrored, including
    the outer pixel, repeatedly if the kernel is wider than the image.
    """
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, device=device)
    kernel = torch.exp(-0.5 * (steps.double() / sigma) ** 2)
    kernel /= kernel.sum()
    index = (torch.arange(size, device=device)[:, None] + steps).remainder(2 * size)
    index = torch.minimum(index, 2 * size - 1 - index)
    return torch.zeros(size, size, dtype=torch.double, device=device).scatter_add(1, index, kernel.expand(size, -1))


def limit_size(points: Float[Tensor, "*B 3 H W"], max_size: float) -> Float[Tensor, "*B 3 H W"]:
    """Compute ``s tanh(|s|) / |s| s_max`` for each pixel (eq. 14), which is smooth and equals ``s_max s`` near 0."""
    # 1e-12 keeps the root's derivative finite at 0, and is below rounding elsewhere.
    norm = (points.square().sum(-3, keepdim=True) + 1e-12).sqrt()
    return points * (max_size * norm.tanh() / norm)


def unlimit_size(points: Float[Tensor, "*B 3 H W"], max_size: float) -> Float[Tensor, "*B 3 H W"]:
    """Invert :func:`limit_size`; points outside its range are first moved just inside."""
    norm = points.norm(dim=-3, keepdim=True).clamp(min=1e-6)
    return points * ((norm / max_size).clamp(max=0.99).atanh() / norm)


def initial_disc(uvs: Float[Tensor, "V 2"], radius: float, bulge: float) -> Float[Tensor, "3 N N"]:
    """Return the initial vertex positions: a disc that faces +z, its middle ``bulge`` in front of its rim (a paraboloid)."""
    size = math.isqrt(len(uvs))
    x, y = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    z = bulge * (1 - x.square() - y.square()).clamp(min=0)
    return torch.stack([radius * x, radius * y, z]).view(3, size, size)
