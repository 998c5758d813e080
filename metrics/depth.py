"""How right the depth of faces is, where the truth is known: procedural heads seen from the front.

Depth ``(B, 1, H, W)`` is as renderers give it: the distance from the camera along its axis, ``inf`` where nothing is seen.
Normals ``(B, 3, H, W)`` are in the camera's frame, x right, y up, z toward the viewer. A pair is compared on the pixels
where both see something; where they share fewer than ``MIN_PIXELS`` there is no evidence.

A generator learns from images alone and may stretch depth (the bas-relief ambiguity) or turn it inside out (the hollow
mask). So errors are measured after one factor s for the whole set of samples, its sign included, which is reported too:

    s = argmin_s sum_i sum_p (s d_ip - r_ip)²  =  sum <d, r> / sum <d, d>

with d, r the depths of sample and reference, each less its mean over the common pixels p of pair i.

A generated sample has no ground truth of its own: nobody knows the head that it means. :func:`measure_depth` therefore
compares it with

- the *mean head*, the mean depth of many true heads: this asks for a head's shape, not for this head's;
- the *nearest head*, the true head whose image before black is nearest (least squares). It is chosen by the image and
  never by depth, which would be choosing the answer. It asks whether shape goes with looks, as far as looks tell.

Both flatter and punish in known ways: true held-out heads do not reach 1 either, so give their figures beside as the
yardstick (``measure_depth(held_out, heads)``).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from renderers import Rendering

MIN_PIXELS = 16
CHUNK = 64  # samples compared with all heads at a time


def common_pixels(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> Bool[Tensor, "B 1 H W"]:
    """Where both see something; nowhere for pairs that share fewer than ``MIN_PIXELS``."""
    both = torch.isfinite(depth) & torch.isfinite(reference)
    return both & (both.sum((1, 2, 3), keepdim=True) >= MIN_PIXELS)


def depth_correlation(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> Float[Tensor, " B"]:
    """Pearson's correlation of each pair over its common pixels, ``<d, r> / (|d| |r|)``, in [-1, 1].

    Blind to each pair's scale and offset, not to its sign: negative is inside out. 0, no evidence, for what is flat or
    shares too few pixels. One reference for all will do: expand it.
    """
    d, r = _centred(depth, reference)
    norms = (d.square().sum(1) * r.square().sum(1)).sqrt()
    # float32's rounding of a plane at a distance of about 11.5 is no relief.
    flat = torch.minimum(d.abs().amax(1), r.abs().amax(1)) < 1e-5
    return torch.where(flat, 0.0, (d * r).sum(1) / norms.clamp(min=1e-12)).clamp(-1, 1).float()


def depth_scale(depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]) -> float:
    """The factor s of this page, one for all pairs; negative if they are inside out on the whole, 0 if all are flat."""
    d, r = _centred(depth, reference)
    return float((d * r).sum() / d.square().sum().clamp(min=1e-12))


def hollow_rate(correlation: Float[Tensor, " B"]) -> float:
    """Hollow-mask rate: the share of samples whose depth is inverted, that is, whose correlation is negative.

    Measured before any global sign: a generator that makes nothing but hollow masks has rate 1.
    """
    return float((correlation < 0).float().mean())


def scale_normals(normals: Float[Tensor, "B 3 H W"], scale: float) -> Float[Tensor, "B 3 H W"]:
    """The normals of the surface after its depth is multiplied by ``scale``: ``(s n_x, s n_y, n_z)``, normalised.

    As exact as the view is orthographic; at a 10° field of view rays lean by 5° at most. 0 stays 0.
    """
    factor = torch.tensor([scale, scale, 1.0], dtype=normals.dtype, device=normals.device)
    return F.normalize(normals * factor.view(1, 3, 1, 1), dim=1)


def normal_error(
    normals: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "B 3 H W"], mask: Bool[Tensor, "B 1 H W"]
) -> Float[Tensor, " B"]:
    """Mean angle between unit normals over the mask, in degrees; NaN where the mask is empty."""
    cosine = (normals * reference).sum(1, keepdim=True)
    sine = torch.linalg.cross(normals, reference, dim=1).norm(dim=1, keepdim=True)
    angle = torch.rad2deg(torch.atan2(sine, cosine))  # unlike acos, exact near 0
    count = mask.sum((1, 2, 3))
    return torch.where(count > 0, (angle * mask).sum((1, 2, 3)) / count.clamp(min=1), math.nan)


def silhouette_iou(
    alpha: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"], threshold: float = 0.5
) -> Float[Tensor, " B"]:
    """Intersection over union of the silhouettes ``alpha > threshold``; two empty ones count as equal."""
    a, b = alpha > threshold, reference > threshold
    union = (a | b).sum((1, 2, 3))
    return torch.where(union > 0, (a & b).sum((1, 2, 3)) / union.clamp(min=1), 1.0)


def mean_head(heads: Rendering) -> Rendering:
    """The mean of heads ``(M, ...)`` as a batch of one: at pixels that at least half of them cover, the mean over those
    that do of image, depth and (normalised) normals; nothing elsewhere.
    """
    assert heads.depth is not None and heads.normals is not None
    seen = torch.isfinite(heads.depth)
    count = seen.sum(0, keepdim=True)
    kept = 2 * count >= len(seen)
    depth = heads.depth.where(seen, 0.0).sum(0, keepdim=True) / count.clamp(min=1)
    normals = F.normalize((heads.normals * seen).sum(0, keepdim=True), dim=1) * kept
    image = (heads.image * seen).sum(0, keepdim=True) / count.clamp(min=1) * kept
    return Rendering(image, kept.to(heads.alpha.dtype), depth.where(kept, math.inf), normals)


def nearest_heads(images: Float[Tensor, "B C H W"], heads: Float[Tensor, "M C H W"]) -> Int[Tensor, " B"]:
    """For each image the index of the head whose image is nearest by least squares; both before black."""
    return torch.cat([torch.cdist(part.flatten(1), heads.flatten(1)).argmin(1) for part in images.split(CHUNK)])


def measure_depth(samples: Rendering, heads: Rendering) -> dict[str, float]:
    """All figures of samples ``(B, ...)`` against true heads ``(M, ...)``, both from the front and before black.

    Returns:
        ``depth_correlation``: mean over the samples, with the mean head, after the global sign.
        ``depth_correlation_nearest``: with each one's nearest head, after the same sign.
        ``depth_scale``: the global factor s against the mean head, sign included; 1 is the right relief.
        ``normal_error``: mean angle to the mean head's normals after the global scale and sign, degrees.
        ``normal_error_flat``: the same of a flat sheet facing the camera: what to beat.
        ``hollow_rate``: share of samples whose correlation with the mean head is negative, before any sign.
        ``silhouette_iou``: mean, with the mean head's silhouette.
        ``silhouette_iou_nearest``: mean, with each one's nearest head's.

    Raises:
        ValueError: renderings without depth or normals.
    """
    for name, rendering in (("samples", samples), ("heads", heads)):
        if rendering.depth is None or rendering.normals is None:
            raise ValueError(f"{name} need depth and normals; draw them with a renderer that gives both")
    mean = mean_head(heads)
    count = len(samples.image)
    mean_depth = mean.depth.expand(count, -1, -1, -1)
    mean_normals = mean.normals.expand(count, -1, -1, -1)
    correlation = depth_correlation(samples.depth, mean_depth)
    scale = depth_scale(samples.depth, mean_depth)
    sign = -1.0 if scale < 0 else 1.0
    mask = common_pixels(samples.depth, mean_depth)
    flat = torch.tensor([0.0, 0.0, 1.0]).to(samples.normals).view(1, 3, 1, 1).expand_as(samples.normals)
    nearest = nearest_heads(samples.image, heads.image)
    return {
        "depth_correlation": sign * float(correlation.mean()),
        "depth_correlation_nearest": sign * float(depth_correlation(samples.depth, heads.depth[nearest]).mean()),
        "depth_scale": scale,
        "normal_error": float(normal_error(scale_normals(samples.normals, scale), mean_normals, mask).nanmean()),
        "normal_error_flat": float(normal_error(flat, mean_normals, mask).nanmean()),
        "hollow_rate": hollow_rate(correlation),
        "silhouette_iou": float(silhouette_iou(samples.alpha, mean.alpha.expand(count, -1, -1, -1)).mean()),
        "silhouette_iou_nearest": float(silhouette_iou(samples.alpha, heads.alpha[nearest]).mean()),
    }


def _centred(
    depth: Float[Tensor, "B 1 H W"], reference: Float[Tensor, "B 1 H W"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Both in float64, less their means over the common pixels; 0 elsewhere."""
    mask = common_pixels(depth, reference).flatten(1)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    pair = []
    for values in (depth, reference):
        known = torch.where(mask, values.flatten(1).double(), 0.0)
        pair.append(torch.where(mask, known - known.sum(1, keepdim=True) / count, 0.0))
    return pair[0], pair[1]
