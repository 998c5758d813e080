"""Accuracy of the depth of generated faces, measured on procedural heads covered from the front.

Depth ``(B, 1, H, W)`` is as renderers return it: the distance from the camera along its axis, ``inf`` at empty pixels.
Normals ``(B, 3, H, W)`` are in the camera frame, x right, y up, z toward the viewer. A pair is compared on the pixels
covered by both; a pair that shares fewer than ``MIN_PIXELS`` counts as no evidence.

A generator trained on images may scale depth (the bas-relief ambiguity) or invert it (the hollow-mask illusion). Errors are
therefore measured after multiplication by one factor s for the whole set of samples, which is reported with its sign:

    s = argmin_s sum_i sum_p (s d_ip - r_ip)²  =  sum <d, r> / sum <d, d>

where d and r are the depths of sample and reference, minus their means over the common pixels p of pair i.

A generated sample has no ground truth. :func:`measure_depth` compares it with

- the *mean head*, the mean depth of many true heads: this tests for the shape of a head, not of this particular head;
- the *nearest head*, the true head whose image on black is nearest (least squares). It is selected by image and never by
  depth, which would select the answer. This tests whether shape matches appearance, as far as appearance determines it.

True held-out heads do not reach 1 either, so report their figures too as the yardstick
(``measure_depth(held_out, heads)``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from renderers import Rendering

MIN_PIXELS = 16
CHUNK = 64  # samples compared with all heads at once


def common_pixels(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> Bool[Tensor, "B 1 H W"]:
    """Return the pixels covered by both; none for pairs that share fewer than ``MIN_PIXELS``."""
    both = torch.isfinite(depth) & torch.isfinite(reference)
    return both & (both.sum((1, 2, 3), keepdim=True) >= MIN_PIXELS)


def depth_correlation(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Return the Pearson correlation of each pair over its common pixels, ``<d, r> / (|d| |r|)``, in [-1, 1].

    It is invariant to each pair's scale and offset but not to its sign: inverted depth gives a negative value. Flat depth
    and pairs that share too few pixels give 0. Expand a single reference to the batch size.
    """
    d, r = _centred(depth, reference)
    norms = (d.square().sum(1) * r.square().sum(1)).sqrt()
    # Variation below float32's rounding error at a distance of about 11.5 counts as flat.
    flat = torch.minimum(d.abs().amax(1), r.abs().amax(1)) < 1e-5
    return torch.where(flat, 0.0, (d * r).sum(1) / norms.clamp(min=1e-12)).clamp(-1, 1).float()


def depth_scale(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> float:
    """Return the factor s of the module docstring for all pairs; negative if depth is inverted, 0 if all are flat."""
    d, r = _centred(depth, reference)
    return float((d * r).sum() / d.square().sum().clamp(min=1e-12))


def hollow_rate(correlation: Float[Tensor, " B"]) -> float:
    """Return the hollow-mask rate: the fraction of samples with inverted depth, that is, with a negative correlation.

    The global sign is not applied: a generator of hollow masks only has rate 1.
    """
    return float((correlation < 0).float().mean())


def scale_normals(normals: Float[Tensor, "B 3 H W"], scale: float) -> Float[Tensor, "B 3 H W"]:
    """Return the normals of the surface with its depth multiplied by ``scale``: ``(s n_x, s n_y, n_z)``, normalized.

    This is exact for orthographic views; with a 10° field of view rays are tilted by at most 5°. Zero normals stay zero.
    """
    factor = torch.tensor([scale, scale, 1.0], dtype=normals.dtype, device=normals.device)
    return F.normalize(normals * factor.view(1, 3, 1, 1), dim=1)


def normal_error(
    normals: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B 1 H W"]
) -> Float[Tensor, " B"]:
    """Return the mean angle between unit normals over the mask, in degrees; NaN if the mask is empty."""
    cosine = (normals * reference).sum(1, keepdim=True)
    sine = torch.linalg.cross(normals, reference, dim=1).norm(dim=1, keepdim=True)
    angle = torch.rad2deg(torch.atan2(sine, cosine))  # unlike acos, accurate near 0
    count = mask.sum((1, 2, 3))
    return torch.where(count > 0, (angle * mask).sum((1, 2, 3)) / count.clamp(min=1), math.nan)


def silhouette_iou(
    alpha: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"], threshold: float = 0.5
) -> Float[Tensor, " B"]:
    """Return the IoU of the silhouettes ``alpha > threshold``; two empty silhouettes count as equal."""
    a, b = alpha > threshold, reference > threshold
    union = (a | b).sum((1, 2, 3))
    return torch.where(union > 0, (a & b).sum((1, 2, 3)) / union.clamp(min=1), 1.0)


def mean_head(heads: Rendering) -> Rendering:
    """Return the mean of heads ``(M, ...)`` as a batch of one.

    Pixels covered by at least half of the heads have the mean image, depth and (normalized) normals of the heads that cover
    them; other pixels are empty.
    """
    assert heads.depth is not None and heads.normals is not None
    covered = torch.isfinite(heads.depth)
    count = covered.sum(0, keepdim=True)
    kept = 2 * count >= len(covered)
    depth = heads.depth.where(covered, 0.0).sum(0, keepdim=True) / count.clamp(min=1)
    normals = F.normalize((heads.normals * covered).sum(0, keepdim=True), dim=1) * kept
    image = (heads.image * covered).sum(0, keepdim=True) / count.clamp(min=1) * kept
    return Rendering(image, kept.to(heads.alpha.dtype), depth.where(kept, math.inf), normals)


def nearest_heads(images: Float[Tensor, "B C H W"], heads: Float[Tensor, "M C H W"]) -> Int[Tensor, " B"]:
    """Return, for each image, the index of the head whose image is nearest by least squares; both on black."""
    return torch.cat([torch.cdist(part.flatten(1), heads.flatten(1)).argmin(1) for part in images.split(CHUNK)])


def measure_depth(samples: Rendering, heads: Rendering) -> dict[str, float]:
    """Compute all metrics of samples ``(B, ...)`` against true heads ``(M, ...)``, both from the front and on black.

    Returns:
        ``depth_correlation``: mean over the samples, with the mean head, after the global sign.
        ``depth_correlation_nearest``: with each sample's nearest head, after the same sign.
        ``depth_scale``: the global factor s against the mean head, with its sign; 1 is the correct relief.
        ``normal_error``: mean angle to the mean head's normals after the global scale and sign, in degrees.
        ``normal_error_flat``: the same for a flat surface that faces the camera, as a baseline.
        ``hollow_rate``: fraction of samples whose correlation with the mean head is negative, before any sign.
        ``silhouette_iou``: mean IoU with the mean head's silhouette.
        ``silhouette_iou_nearest``: mean IoU with the silhouette of each sample's nearest head.

    Raises:
        ValueError: if a rendering has no depth or normals.
    """
    sample_depth, sample_normals = _depth_and_normals(samples, "samples")
    head_depth, _ = _depth_and_normals(heads, "heads")
    mean = mean_head(heads)
    count = len(samples.image)
    mean_depth, mean_normals = (x.expand(count, -1, -1, -1) for x in _depth_and_normals(mean, "mean head"))
    correlation = depth_correlation(sample_depth, mean_depth)
    scale = depth_scale(sample_depth, mean_depth)
    sign = -1.0 if scale < 0 else 1.0
    mask = common_pixels(sample_depth, mean_depth)
    flat = torch.tensor([0.0, 0.0, 1.0]).to(sample_normals).view(1, 3, 1, 1).expand_as(sample_normals)
    nearest = nearest_heads(samples.image, heads.image)
    return {
        "depth_correlation": sign * float(correlation.mean()),
        "depth_correlation_nearest": sign * float(depth_correlation(sample_depth, head_depth[nearest]).mean()),
        "depth_scale": scale,
        "normal_error": float(normal_error(scale_normals(sample_normals, scale), mean_normals, mask).nanmean()),
        "normal_error_flat": float(normal_error(flat, mean_normals, mask).nanmean()),
        "hollow_rate": hollow_rate(correlation),
        "silhouette_iou": float(silhouette_iou(samples.alpha, mean.alpha.expand(count, -1, -1, -1)).mean()),
        "silhouette_iou_nearest": float(silhouette_iou(samples.alpha, heads.alpha[nearest]).mean()),
    }


def _depth_and_normals(rendering: Rendering, name: str) -> tuple[Tensor, Tensor]:
    if rendering.depth is None or rendering.normals is None:
        raise ValueError(f"{name} need depth and normals; use a renderer that returns both")
    return rendering.depth, rendering.normals


def _centred(
    depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Return both depths in float64 minus their means over the common pixels; 0 elsewhere."""
    mask = common_pixels(depth, reference).flatten(1)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    pair = []
    for values in (depth, reference):
        known = torch.where(mask, values.flatten(1).double(), 0.0)
        pair.append(torch.where(mask, known - known.sum(1, keepdim=True) / count, 0.0))
    return pair[0], pair[1]
