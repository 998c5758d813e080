"""Volume renderers: closed forms, exact gradients, and agreement of the kernels with the reference."""

import math
import os
from importlib.util import find_spec

import pytest
import torch

from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    InputError,
    LitAbsorptionRenderer,
    VisualHullRenderer,
    VoxelGrid,
)

ALL = [AbsorptionRenderer, VisualHullRenderer, EmissionAbsorptionRenderer]


def one_voxel(size: int = 8) -> torch.Tensor:
    occupancy = torch.zeros(1, 1, size, size, size)
    occupancy[0, 0, 3, 4, 5] = 1
    return occupancy


def noise(dtype=torch.float64, size=6):
    """Soft voxels with an opaque block, colours and two views, all of which require gradients."""
    g = torch.Generator().manual_seed(0)
    occupancy = torch.rand(2, 1, size, size, size, dtype=dtype, generator=g) ** 3
    occupancy[:, :, 2:4, 2:4, 2:4] = 1
    color = torch.rand(2, 3, size, size, size, dtype=dtype, generator=g)
    azimuth, elevation = torch.tensor([20.0, 130.0], dtype=dtype), torch.tensor([15.0, -40.0], dtype=dtype)
    return [t.requires_grad_() for t in (occupancy, color, azimuth, elevation)]


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(
    ("renderer", "options", "alpha"),
    [
        (VisualHullRenderer, {}, 1 - math.exp(-1)),
        (VisualHullRenderer, {"tau": 0.5}, 1 - math.exp(-0.5)),
        (AbsorptionRenderer, {}, 1.0),
        (AbsorptionRenderer, {"opacity": 20 / 64}, 0.3125),  # PlatonicGAN's released scale
        (EmissionAbsorptionRenderer, {}, 1.0),
        (EmissionAbsorptionRenderer, {"opacity": 20 / 64}, 0.3125),
    ],
)
def test_one_voxel_in_a_column(renderer, options, alpha, backend):
    # At azimuth 0 the samples are at the voxels' centres: nothing is interpolated.
    rendered = renderer(16, backend=backend, **options)(VoxelGrid(one_voxel()), Camera.orbit(0.0, 0.0))
    assert rendered.alpha[0, 0, 4 + 3, 4 + 5].item() == pytest.approx(alpha, abs=1e-5)  # y = 4 is row 3 from the top
    assert torch.equal(rendered.image, rendered.alpha)
    assert rendered.alpha.sum().item() == pytest.approx(alpha, abs=1e-4)


def test_four_voxels_with_the_opacity_of_platonicgan():
    column = torch.zeros(1, 1, 8, 8, 8)
    column[0, 0, 2:6, 4, 4] = 1
    rendered = AbsorptionRenderer(16, opacity=20 / 64)(VoxelGrid(column), Camera.orbit(0.0, 0.0))
    assert rendered.alpha.max().item() == pytest.approx(1 - (1 - 0.3125) ** 4, abs=1e-5)


@pytest.mark.parametrize(("azimuth", "column"), [(0.0, 4 + 5), (90.0, 4 + 4), (180.0, 4 + 2), (270.0, 4 + 3)])
@pytest.mark.parametrize("renderer", ALL)
def test_quarter_turns_move_a_voxel(renderer, azimuth, column):
    rendered = renderer(16)(VoxelGrid(one_voxel()), Camera.orbit(azimuth, 0.0))
    assert divmod(int(rendered.alpha.argmax()), 16) == (4 + 3, column)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("fov", [None, 40.0])
def test_emission_of_one_equals_absorption(fov, backend):
    occupancy, _, azimuth, elevation = noise()
    camera = Camera(azimuth, elevation, fov)
    white = torch.ones(2, 3, 6, 6, 6, dtype=torch.float64)
    a = AbsorptionRenderer(12, backend=backend)(VoxelGrid(occupancy), camera)
    for color in (None, white, white[:, :1]):
        b = EmissionAbsorptionRenderer(12, backend=backend)(VoxelGrid(occupancy, color), camera)
        assert torch.allclose(b.image, a.image.expand_as(b.image), atol=1e-12)
        assert torch.allclose(b.alpha, a.alpha, atol=1e-12)


def test_near_colour_hides_far_colour():
    occupancy, color = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    occupancy[0, 0, 2] = occupancy[0, 0, 5] = 1
    color[0, 0, :4], color[0, 2, 4:] = 1, 1  # red at the back (small z), blue in front
    for azimuth, expected in ((0.0, [0.0, 0.0, 1.0]), (180.0, [1.0, 0.0, 0.0])):
        rendered = EmissionAbsorptionRenderer(16)(VoxelGrid(occupancy, color), Camera.orbit(azimuth, 0.0))
        assert torch.allclose(rendered.image[0, :, 8, 8], torch.tensor(expected), atol=1e-4)


def test_half_transparent_voxel_shows_the_background():
    occupancy = 0.5 * one_voxel()
    background = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for renderer, through in ((AbsorptionRenderer, 0.5), (VisualHullRenderer, math.exp(-0.5))):
        rendered = renderer(16)(VoxelGrid(occupancy), Camera.orbit(0.0, 0.0), background)
        assert rendered.image.shape == (1, 3, 16, 16)
        expected = (1 - through) + through * background[0, :, 7, 9]
        assert torch.allclose(rendered.image[0, :, 7, 9], expected, atol=1e-5)
        assert torch.allclose(rendered.image[0, :, 0, 0], background[0, :, 0, 0])


@pytest.mark.slow
@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("renderer", ALL)
def test_gradients_are_exact(renderer, fov):
    """Gradients of occupancy, colour and camera, also through opaque voxels, match differences in float64."""
    occupancy, color, azimuth, elevation = noise(size=4)

    def image(o, c, a, e):
        rendered = renderer(5, samples=6, backend="numba")
        return rendered.render(VoxelGrid(o, c), Camera(a, e, fov), None).image

    assert torch.autograd.gradcheck(image, (occupancy, color, azimuth, elevation), atol=1e-6)


def assert_agreement(renderer, fov, kernel, dtype, tolerance, image_size=14, samples=11):
    results = []
    for backend in ("torch", kernel):
        inputs = noise(dtype)
        occupancy, color, azimuth, elevation = inputs
        rendered = renderer(image_size, samples=samples, backend=backend)(
            VoxelGrid(occupancy, color), Camera(azimuth, elevation, fov)
        )
        g = torch.Generator().manual_seed(3)
        loss = (torch.rand(rendered.image.shape, generator=g, dtype=dtype) * rendered.image).sum()
        (loss + (torch.rand(rendered.alpha.shape, generator=g, dtype=dtype) * rendered.alpha).sum()).backward()
        results.append([rendered.image, rendered.alpha, *(x.grad for x in inputs)])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).abs().max() <= tolerance * a.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("renderer", ALL)
def test_numba_agrees_with_the_reference(renderer, fov, dtype, tolerance):
    assert_agreement(renderer, fov, "numba", dtype, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("renderer", ALL)
def test_triton_agrees_with_the_reference(renderer, fov, needs_gpu):
    results = []
    for backend in ("torch", "triton"):
        inputs = [t.detach().float().cuda().requires_grad_() for t in noise(size=16)]
        occupancy, color, azimuth, elevation = inputs
        rendered = renderer(40, backend=backend)(VoxelGrid(occupancy, color), Camera(azimuth, elevation, fov))
        (rendered.image.square().sum() + rendered.alpha.sum()).backward()
        results.append([rendered.image, rendered.alpha, *(x.grad for x in inputs)])
    for a, b in zip(*results, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a - b).abs().max() <= 1e-3 * a.abs().max()


@pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="test_triton.py runs it with TRITON_INTERPRET=1",
)
@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("renderer", ALL)
def test_triton_interpreted_on_the_cpu_agrees_with_the_reference(renderer, fov):
    assert_agreement(renderer, fov, "triton", torch.float32, 1e-4, image_size=9, samples=7)


def test_results_do_not_depend_on_threads_or_batch():
    occupancy, color, azimuth, elevation = (t.detach() for t in noise(torch.float32))
    renderer = EmissionAbsorptionRenderer(16)
    whole = renderer(VoxelGrid(occupancy, color), Camera(azimuth, elevation)).image
    single = renderer(VoxelGrid(occupancy[1:], color[1:]), Camera(azimuth[1:], elevation[1:])).image
    assert torch.equal(whole[1:], single)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(whole, renderer(VoxelGrid(occupancy, color), Camera(azimuth, elevation)).image)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("renderer", ALL)
def test_renders_empty_full_and_half_precision_grids(renderer):
    camera = Camera.orbit([0.0, 45.0], 20.0)
    empty = renderer(16)(VoxelGrid(torch.zeros(2, 1, 8, 8, 8)), camera)
    assert empty.alpha.max() == 0
    full = renderer(16)(VoxelGrid(torch.ones(2, 1, 8, 8, 8)), camera)
    assert full.alpha[:, 0, 8, 8].min() > 0.99
    half = renderer(16)(VoxelGrid(torch.full((2, 1, 8, 8, 8), 0.25, dtype=torch.bfloat16)), camera)
    assert half.image.dtype == torch.float32
    solid = renderer(16)(VoxelGrid(torch.ones(2, 1, 8, 8, 8, dtype=torch.bool)), camera)
    assert torch.equal(solid.image, full.image)


@pytest.mark.parametrize(
    ("occupancy", "error", "message"),
    [
        (torch.full((1, 1, 4, 4, 4), 1.5), ValueError, r"occupancy \(1, 1, 4, 4, 4\) must be in \[0, 1\]"),
        (torch.full((1, 1, 4, 4, 4), -0.5), ValueError, r"must be in \[0, 1\], got values from -0.5 to -0.5"),
        (torch.full((1, 1, 4, 4, 4), math.nan), ValueError, r"must be in \[0, 1\], got values from nan"),
        (torch.ones(1, 1, 4, 4, 4, dtype=torch.int64), TypeError, "occupancy must be floating point or bool"),
    ],
)
def test_rejects_invalid_grids(occupancy, error, message):
    with pytest.raises(error, match=message):
        AbsorptionRenderer(8)(VoxelGrid(occupancy), Camera.orbit(0.0, 0.0))


def test_rejects_invalid_settings():
    grid, camera = VoxelGrid(one_voxel()), Camera.orbit(0.0, 0.0)
    with pytest.raises(InputError, match=r"opacity must be above 0 and at most 1, not 1\.5"):
        AbsorptionRenderer(8, opacity=1.5)
    with pytest.raises(InputError, match="tau must be above 0, not 0"):
        VisualHullRenderer(8, tau=0)
    with pytest.raises(InputError, match="samples must be at least 1, not 0"):
        EmissionAbsorptionRenderer(8, samples=0)
    with pytest.raises(InputError, match="image_size must be at least 1, not 0"):
        AbsorptionRenderer(0)
    with pytest.raises(InputError, match="backend must be one of auto, torch, numba, triton, got 'cuda'"):
        AbsorptionRenderer(8, backend="cuda")
    with pytest.raises(ValueError, match="'triton' requires scenes on cuda, got a scene on cpu"):
        AbsorptionRenderer(8, backend="triton")(grid, camera)
    with pytest.raises(
        ValueError, match=r"background must have shape \(B, C, H, W\) = \(1, 3, 8, 8\), got \(1, 3, 4, 4\)"
    ):
        AbsorptionRenderer(8)(grid, camera, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"color \(1, 3, 8, 8, 8\) must be in"):
        EmissionAbsorptionRenderer(8)(VoxelGrid(one_voxel(), torch.full((1, 3, 8, 8, 8), 2.0)), camera)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda d: AbsorptionRenderer(2 * d, opacity=20 / 64, reference_size=64), 0.625),
        (lambda d: EmissionAbsorptionRenderer(2 * d, opacity=20 / 64, reference_size=64), 0.625),
        (lambda d: LitAbsorptionRenderer(2 * d, opacity=20 / 64, reference_size=64), 0.625),
        (lambda d: VisualHullRenderer(2 * d, tau=0.375, reference_size=64), 1 - math.exp(-0.75)),
    ],
)
def test_reference_size_scales_the_density_to_the_grid(make, expected):
    """One full voxel at 32³ is as dense as two at 64³: opacity 20 / D, as in PlatonicGAN's code."""
    voxel = torch.zeros(1, 1, 32, 32, 32)
    voxel[..., 16, 16, 16] = 1
    assert make(32)(VoxelGrid(voxel), Camera.orbit(0.0, 0.0)).alpha.max().item() == pytest.approx(expected, abs=1e-5)


def test_rejects_an_opacity_above_one():
    renderer = AbsorptionRenderer(16, opacity=20 / 64, reference_size=64)
    with pytest.raises(
        InputError, match=r"opacity 0.3125 at 64³ voxels is 2.5 at 8³, more than 1; set opacity to at most"
    ):
        renderer(VoxelGrid(torch.ones(1, 1, 8, 8, 8)), Camera.orbit(0.0, 0.0))
    with pytest.raises(InputError, match="reference_size must be at least 1, not 0"):
        VisualHullRenderer(8, reference_size=0)
