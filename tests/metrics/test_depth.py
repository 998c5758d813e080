"""Depth metrics on cases with a known answer."""

import math

import pytest
import torch

from metrics import measure_depth
from metrics.depth import (
    depth_correlation,
    depth_scale,
    hollow_rate,
    mean_head,
    nearest_heads,
    normal_error,
    scale_normals,
    silhouette_iou,
)
from renderers import Rendering

SIZE, FAR = 16, 11.5


def dome(relief: float = 1.0, radius: float = 0.8, color: float = 0.5) -> Rendering:
    """A paraboloid ``z = relief (1 - r²)`` seen from the front; its normals are ``(2 relief x, 2 relief y, 1)``."""
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    covered = (x**2 + y**2 < radius**2)[None, None]
    depth = (FAR - relief * (1 - x**2 - y**2))[None, None].where(covered, math.inf)
    normals = torch.stack([2 * relief * x, 2 * relief * y, torch.ones_like(x)])[None]
    normals = torch.nn.functional.normalize(normals, dim=1) * covered
    return Rendering(color * covered.float().expand(1, 3, -1, -1), covered.float(), depth, normals)


def batch(*renderings: Rendering) -> Rendering:
    return Rendering(*(torch.cat([getattr(r, k) for r in renderings]) for k in ("image", "alpha", "depth", "normals")))


@pytest.mark.parametrize(("relief", "expected"), [(1.0, 1.0), (0.1, 1.0), (3.0, 1.0), (-1.0, -1.0), (0.0, 0.0)])
def test_correlation_depends_on_the_sign_but_not_the_scale(relief, expected):
    shifted = dome(relief).depth + 0.3
    assert depth_correlation(shifted, dome().depth).item() == pytest.approx(expected, abs=1e-4)


def test_correlation_by_hand():
    """d = (0, 1, 2, 3) against r = (1, 0, 3, 2), each four times: 3 / 5."""
    d = torch.tensor([0.0, 1, 2, 3]).repeat(4).view(1, 1, 4, 4)
    r = torch.tensor([1.0, 0, 3, 2]).repeat(4).view(1, 1, 4, 4)
    assert depth_correlation(d, r).item() == pytest.approx(0.6)
    assert depth_scale(d, r) == pytest.approx(0.6)


def test_too_few_common_pixels_are_no_evidence():
    d = torch.full((1, 1, SIZE, SIZE), math.inf)
    d[..., 0, :15] = torch.rand(15)
    assert depth_correlation(d, d).item() == 0
    assert depth_scale(d, d) == 0
    d[..., 0, 15] = 0.5
    assert depth_correlation(d, d).item() == pytest.approx(1)


def test_one_scale_for_all_samples():
    """Against relief 1: sum <d, r> / sum <d, d> = (2 + 4) / (4 + 16)."""
    samples, truth = batch(dome(2), dome(4)), batch(dome(), dome())
    assert depth_scale(samples.depth, truth.depth) == pytest.approx(6 / 20, abs=1e-4)
    assert depth_scale(batch(dome(-2), dome(-2)).depth, truth.depth) == pytest.approx(-0.5, abs=1e-4)


def test_hollow_rate_counts_negative_correlations():
    assert hollow_rate(torch.tensor([-0.9, -0.01, 0.0, 0.4])) == 0.5


@pytest.mark.parametrize("scale", [0.5, -0.5, 2.0])
def test_normals_follow_the_scaled_depth(scale):
    scaled, truth = scale_normals(dome(0.7).normals, scale), dome(0.7 * scale)
    assert normal_error(scaled, truth.normals, truth.alpha > 0).item() == pytest.approx(0, abs=1e-3)


def test_normal_error_in_degrees():
    up = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    tilted = torch.tensor([math.sin(0.2), 0, math.cos(0.2)]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[1] = False
    error = normal_error(up, tilted, mask)
    assert error[0].item() == pytest.approx(math.degrees(0.2), abs=1e-4) and error[1].isnan()


def test_silhouette_iou():
    a, b = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    a[0, :, :2], b[0, :, 1:3] = 1, 1  # two rows each, one in common
    a[1] = 1
    assert silhouette_iou(a, b).tolist() == pytest.approx([1 / 3, 0, 1])


def test_mean_head_has_the_pixels_of_at_least_half_of_the_heads():
    heads = batch(dome(1, radius=0.8), dome(3, radius=0.4), dome(2, radius=0.4))
    mean = mean_head(heads)
    assert torch.equal(mean.alpha, dome(radius=0.4).alpha)  # only a third of the heads cover more
    assert torch.allclose(mean.depth, dome(2, radius=0.4).depth, atol=1e-5)
    assert torch.allclose(mean.normals.norm(dim=1), mean.alpha[:, 0], atol=1e-5)
    assert not mean.depth.isnan().any()


def test_nearest_head_is_selected_by_image():
    heads = batch(dome(color=0.2), dome(color=0.9))
    assert nearest_heads(batch(dome(color=0.8), dome(color=0.3)).image, heads.image).tolist() == [1, 0]


def test_measure_depth():
    heads = batch(dome(1, color=0.2), dome(1, color=0.8))
    right = measure_depth(batch(dome(0.5), dome(0.5)), heads)
    assert right["depth_correlation"] == pytest.approx(1, abs=1e-4)
    assert right["depth_correlation_nearest"] == pytest.approx(1, abs=1e-4)
    assert right["depth_scale"] == pytest.approx(2, abs=1e-3)
    assert right["normal_error"] == pytest.approx(0, abs=0.02) and right["normal_error_flat"] > 20
    assert right["hollow_rate"] == 0 and right["silhouette_iou"] == 1

    hollow = measure_depth(batch(dome(-0.5), dome(-0.5), dome(0.1)), heads)
    assert hollow["hollow_rate"] == pytest.approx(2 / 3) and hollow["depth_scale"] < 0
    assert hollow["depth_correlation"] == pytest.approx(1 / 3, abs=1e-4)

    flat = measure_depth(dome(0), heads)
    assert flat["depth_correlation"] == 0 and flat["hollow_rate"] == 0
    assert flat["normal_error"] == pytest.approx(flat["normal_error_flat"])


def test_rejects_renderings_without_depth():
    with pytest.raises(ValueError, match="samples need depth and normals"):
        measure_depth(Rendering(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)), dome())
