"""Shading of fragments in plain torch: attributes, textures, and the sum over each pixel's fragments.

This is the specification of the shading kernels; :mod:`renderers.soft_rasterizer.reference` defines fragments. Textures are
sampled for every fragment, crisp or soft, before blending (MeshGAN, section 5).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from renderers.soft_rasterizer.reference import Fragments


def interpolate(
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    attributes: Float[Tensor, "B V C"],
    size: int,
) -> Float[Tensor, "N C"]:
    """Interpolate vertex attributes at the fragments (eq. 7); a batch of 1 is shared by all images."""
    corner = faces[fragments.face].long()
    if attributes.shape[0] > 1:
        corner = corner + (fragments.pixel // size**2)[:, None] * attributes.shape[1]
    values = attributes.reshape(-1, attributes.shape[-1])[corner]
    return (barycentric[..., None] * values).sum(1)


def sample_texture(
    texture: Float[Tensor, "B C H W"], uv: Float[Tensor, "N 2"], batch: Int[Tensor, " N"]
) -> Float[Tensor, "N C"]:
    """Sample textures bilinearly, one texture per batch item.

    (0, 0) is the texture's top left corner and (1, 1) its bottom right one, so texel centres are at half integers; the
    border repeats beyond the outermost centres.
    """
    channels, height, width = texture.shape[1:]
    x = (uv[:, 0] * width - 0.5).clamp(0, width - 1)
    y = (uv[:, 1] * height - 0.5).clamp(0, height - 1)
    left, top = x.detach().long().clamp(max=max(width - 2, 0)), y.detach().long().clamp(max=max(height - 2, 0))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]

    texels = texture.permute(0, 2, 3, 1).reshape(-1, channels)
    upper, lower = ((batch * height + row) * width for row in (top, bottom))
    above = texels[upper + left] * (1 - fx) + texels[upper + right] * fx
    below = texels[lower + left] * (1 - fx) + texels[lower + right] * fx
    return above * (1 - fy) + below * fy


def splat(values: Float[Tensor, "N C"], fragments: Fragments, batch: int, size: int) -> Float[Tensor, "B C S S"]:
    """Sum ``values`` over each pixel's fragments. The values of padding must be 0."""
    pixel = fragments.pixel.clamp(min=0)
    image = values.new_zeros(batch * size * size, values.shape[-1]).index_add(0, pixel, values)
    return image.view(batch, size, size, values.shape[-1]).permute(0, 3, 1, 2)


def splat_attributes(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    attributes: Float[Tensor, "B V C"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """Blend vertex attributes; the result is multiplied by alpha."""
    values = interpolate(barycentric, faces, fragments, attributes, size)
    return splat(weights[:, None] * values, fragments, attributes.shape[0], size)


def splat_texture(
    fragments: Fragments,
    weights: Float[Tensor, " N"],
    barycentric: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    uvs: Float[Tensor, "V 2"],
    texture: Float[Tensor, "B C H W"],
    size: int,
) -> Float[Tensor, "B C S S"]:
    """Blend texture samples; the result is multiplied by alpha."""
    uv = interpolate(barycentric, faces, fragments, uvs[None], size)
    values = sample_texture(texture, uv, fragments.pixel // size**2)
    return splat(weights[:, None] * values, fragments, texture.shape[0], size)
