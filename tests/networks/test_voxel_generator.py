"""Options of the voxel generator that are not in the paper: smoothing, mirror symmetry, pixel norm."""

import pytest
import torch

from networks import VoxelGenerator
from networks.voxel_generator import BinomialFilter3d
from renderers import InputError


def generator(**options) -> VoxelGenerator:
    torch.manual_seed(0)
    return VoxelGenerator(16, latent_size=8, width=8, **options)


@pytest.mark.parametrize("out_channels", [1, 4])
def test_mirrored_grids_are_symmetric_about_x(out_channels):
    grid = generator(mirrored=True, out_channels=out_channels)(torch.randn(2, 8))
    assert grid.shape == (2, out_channels, 16, 16, 16)
    assert torch.equal(grid, grid.flip(-1))
    assert not torch.allclose(grid, grid.flip(-2)) and not torch.allclose(grid, grid.flip(-3))


def test_smoothing_filters_the_output_before_the_sigmoid():
    z = torch.randn(2, 8)
    logits, filtered = generator()(z).logit(), generator(smoothing=2)(z).logit()
    assert torch.allclose(filtered, BinomialFilter3d()(BinomialFilter3d()(logits)), atol=1e-4)
    assert generator().state_dict().keys() == generator(smoothing=2).state_dict().keys()


def test_binomial_filter_is_a_convolution():
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    kernel = torch.einsum("i,j,k->ijk", taps, taps, taps).expand(3, 1, 3, 3, 3)
    padded = torch.nn.functional.pad(x, [1] * 6, mode="replicate")
    assert torch.allclose(BinomialFilter3d()(x), torch.nn.functional.conv3d(padded, kernel, groups=3))
    assert torch.allclose(BinomialFilter3d()(torch.ones_like(x)), torch.ones_like(x))
    checkerboard = 1 - 2 * (torch.arange(6, dtype=torch.float64) % 2).expand(1, 1, 6, 6, 6)
    assert BinomialFilter3d()(checkerboard)[..., 1:-1].abs().max() == 0


def test_negative_smoothing_is_rejected():
    with pytest.raises(InputError, match="smoothing must be at least 0, not -1"):
        generator(smoothing=-1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_coarse_colors_are_averages_of_cells_and_leave_occupancy_alone(mirrored):
    z = torch.randn(2, 8)
    fine = generator(out_channels=4, mirrored=mirrored)(z)
    coarse = generator(out_channels=4, mirrored=mirrored, color_size=4)(z)
    assert torch.allclose(coarse[:, :1], fine[:, :1])
    # Linear interpolation between the centres of the cells, constant outside of them, along each axis.
    centers = ((torch.arange(16) + 0.5) / 4 - 0.5).clamp(0, 3)
    weights = (1 - (centers[:, None] - torch.arange(4)).abs()).clamp(min=0)
    means = fine[:, 1:].logit().unflatten(2, (4, 4)).unflatten(4, (4, 4)).unflatten(6, (4, 4)).mean((3, 5, 7))
    expected = torch.einsum("bcijk,zi,yj,xk->bczyx", means, weights, weights, weights)
    assert torch.allclose(coarse[:, 1:].logit(), expected, atol=1e-4)


def test_one_color_per_shape():
    colors = generator(out_channels=4, color_size=1)(torch.randn(2, 8))[:, 1:]
    assert torch.allclose(colors, colors[..., :1, :1, :1].expand_as(colors))
    assert not torch.allclose(colors[0], colors[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_size": 4}, "color_size is for generators with colour; set out_channels to 4"),
        ({"color_size": 5, "out_channels": 4}, "color_size must divide voxel_size 16, got 5"),
        ({"color_size": 0, "out_channels": 4}, "color_size must be at least 1, not 0"),
    ],
)
def test_bad_color_sizes_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        generator(**options)


def test_pixel_norm_makes_a_shape_independent_of_its_batch():
    z = torch.randn(3, 8)
    pixel = generator(normalization="pixel", mirrored=True)
    assert torch.allclose(pixel(z)[1:2], pixel(z[1:2]), atol=1e-6)
    batch = generator(mirrored=True)
    assert not torch.allclose(batch(z)[1:2], batch(z[1:2]), atol=1e-3)
    features = pixel.layers[:5](z.view(3, 8, 1, 1, 1))
    assert torch.allclose(features.square().mean(1), torch.ones(3, 8, 8, 4), atol=1e-3)
