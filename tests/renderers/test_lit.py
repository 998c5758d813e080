"""Lit absorption: closed forms, exact gradients, equal backends, and agreement with OpenGL."""

import os
from importlib.util import find_spec

import pytest
import torch
from solids import angles, blob, chair, grids

from lightning_modules.losses import relative_error
from renderers import (
    AbsorptionRenderer,
    Camera,
    Lighting,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    ViewDistribution,
    VoxelGrid,
)
from renderers.base import normalize_channels
from renderers.volume import numba_backend, reference
from renderers.volume.reference import MarchSettings, Rays


def test_normals_are_normalized_as_by_torch():
    results = []
    for function in (normalize_channels, lambda x: torch.nn.functional.normalize(x, dim=1)):
        normals = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        normals[0, :, 0] = 0
        normals[0, :, 1] *= 1e-14
        normals.requires_grad_()
        unit = function(normals)
        results.append((unit, *torch.autograd.grad((unit * unit.roll(1, 1)).sum(), normals)))
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs)


def half_space(size: int = 8) -> VoxelGrid:
    """A block that fills the half z < 0 of the grid: its front face is at z = 0."""
    occupancy = torch.zeros(1, 1, size, size, size)
    occupancy[:, :, : size // 2] = 1
    return VoxelGrid(occupancy)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("fov", [None, 30.0])
def test_a_face_toward_the_viewer(backend, fov):
    light = Lighting(0.1, ((0.0, 0.0, 1.0),), (0.6,))
    camera = Camera.orbit(0.0, 0.0, fov)
    rendered = LitAbsorptionRenderer(16, lighting=light, backend=backend)(half_space(), camera)
    middle = (0, slice(None), 8, 8)
    assert rendered.alpha[middle].item() == 1
    assert torch.allclose(rendered.normals[middle], torch.tensor([0.0, 0.0, 1.0]), atol=0.02)
    assert rendered.image[middle].item() == pytest.approx(0.7, abs=1e-3)
    # The first sample inside is the centre of the first voxel, half a voxel (1/16) behind the face.
    assert rendered.depth[middle].item() == pytest.approx(camera.distance + 1 / 16, abs=0.03)
    assert torch.isinf(rendered.depth[0, 0, 0, 0]) and rendered.normals[0, :, 0, 0].abs().sum() == 0


def test_normals_are_in_the_camera_frame():
    """From azimuth 90 the visible face of a block in x > 0 points toward the viewer; from 0 its left face is hidden."""
    occupancy = torch.zeros(1, 1, 8, 8, 8)
    occupancy[..., 4:] = 1
    rendered = LitAbsorptionRenderer(16)(VoxelGrid(occupancy), Camera.orbit(90.0, 0.0))
    assert torch.allclose(rendered.normals[0, :, 8, 8], torch.tensor([0.0, 0.0, 1.0]), atol=0.02)
    assert LitAbsorptionRenderer(16)(VoxelGrid(occupancy), Camera.orbit(-40.0, 0.0)).normals[0, 0, 8, 8] < -0.5


def test_alpha_is_that_of_absorption():
    scene, camera = grids(blob(), chair()), ViewDistribution().sample(2, torch.Generator().manual_seed(0))
    for opacity in (1.0, 0.3):
        lit = LitAbsorptionRenderer(64, opacity)(scene, camera)
        assert torch.equal(lit.alpha, AbsorptionRenderer(64, opacity)(scene, camera).alpha)


@pytest.mark.parametrize("fov", [None, 30.0])
def test_the_image_approximates_opengl(fov):
    """On solids of 64³ voxels: squared error relative to that of a black image, and the median angle between normals."""
    scene = grids(chair(), chair(leg=3), blob(), blob(seed=5))
    errors, medians = [], []
    for seed in range(4):
        camera = ViewDistribution(fov=fov).sample(len(scene), torch.Generator().manual_seed(seed))
        expected = OpenGLRenderer(128, backend="moderngl")(scene, camera)
        lit = LitAbsorptionRenderer(128)(scene, camera)
        errors.append(float(relative_error(lit.image, expected.image)))
        inner = (expected.alpha == 1) & (lit.alpha > 0.99)
        medians.append(float(angles(lit.normals, expected.normals)[inner].median()))
        assert (lit.depth - expected.depth)[inner].abs().median() < 1 / 64  # a voxel
    assert max(errors) < 0.02, errors
    assert max(medians) < 7, medians


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("fov", [None, 30.0])
def test_gradients_are_exact(backend, fov):
    g = torch.Generator().manual_seed(0)
    occupancy = torch.rand(1, 1, 5, 5, 5, dtype=torch.float64, generator=g).requires_grad_()
    angle = torch.tensor([25.0], dtype=torch.float64, requires_grad=True)
    elevation = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
    renderer = LitAbsorptionRenderer(10, opacity=0.7, backend=backend)

    def render(occupancy, azimuth, elevation):
        rendered = renderer(VoxelGrid(occupancy), Camera(azimuth, elevation, fov))
        seen = rendered.alpha > 0
        return rendered.image, rendered.normals, torch.where(seen, rendered.depth, 0.0)

    assert torch.autograd.gradcheck(render, (occupancy, angle, elevation), eps=1e-6, atol=1e-5)


def test_numba_agrees_with_the_reference():
    g = torch.Generator().manual_seed(1)
    occupancy = (torch.rand(3, 1, 12, 12, 12, generator=g) ** 2).requires_grad_()
    camera = ViewDistribution(fov=20.0).sample(3, g)
    results = []
    for backend in ("torch", "numba"):
        rendered = LitAbsorptionRenderer(24, backend=backend)(VoxelGrid(occupancy), camera)
        (gradient,) = torch.autograd.grad(rendered.image.square().sum(), occupancy)
        results.append((rendered.image, rendered.normals, gradient))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("fov", [None, 30.0])
@pytest.mark.parametrize("opacity", [1.0, 0.3])
def test_the_fused_kernels_agree_with_marching_the_gradient_as_a_colour(fov, opacity):
    """Soft and thresholded grids, whose rays end early, that touch the faces; also the camera's gradient."""
    g = torch.Generator().manual_seed(2)
    soft = torch.rand(1, 1, 9, 9, 9, dtype=torch.float64, generator=g)
    occupancy = torch.cat([soft, (soft > 0.5).double(), (soft > -1).double()]).requires_grad_()
    angle = torch.tensor([20.0, 130.0, 250.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 5, 18, 18, dtype=torch.float64, generator=g)
    results = []
    for march in (reference.march_surface, numba_backend.kernels.march_surface, numba_backend.march_surface):
        camera = Camera(angle, angle / 5 - 20, fov)
        settings = MarchSettings(Rays.of(camera, 18, 20), "absorption", opacity)
        out = torch.cat(march(occupancy, camera.rotation, settings), 1)
        results.append((out, *torch.autograd.grad(out, (occupancy, angle), upstream)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("fov", [None, 10.0])
@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_depth_where_alpha_is_small(backend, fov):
    """A faint background, such as that of a sigmoid: in float32, ``1 - prod_i (1 - v_i)`` has few correct digits there."""
    occupancy, camera = blob(16).clamp(min=1e-5), Camera.orbit(30.0, 20.0, fov)
    renderer = LitAbsorptionRenderer(32, backend=backend)
    depth, alpha = (getattr(renderer(grids(occupancy), camera), name) for name in ("depth", "alpha"))
    exact = renderer(grids(occupancy.double()), camera).depth
    seen = depth.isfinite()
    assert (depth - camera.distance)[seen].abs().max() <= 1
    assert (depth - exact)[alpha > 1e-5].abs().max() < 0.02


def test_values_slightly_above_one_are_rendered_as_by_the_reference():
    """They are valid, and make the transmittance negative."""
    occupancy = (blob(12) > 0.5).float() * 1.0008
    camera = Camera.orbit(30.0, 20.0)
    results = []
    for backend in ("torch", "numba"):
        leaf = occupancy.clone().requires_grad_()
        rendered = LitAbsorptionRenderer(24, backend=backend)(grids(leaf), camera)
        (gradient,) = torch.autograd.grad(rendered.image.square().sum(), leaf)
        results.append((rendered.image, rendered.alpha, gradient))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_results_do_not_depend_on_threads_or_batch():
    scene, camera = grids(blob(16), chair(16)), Camera.orbit([20.0, 130.0], [15.0, -40.0])
    whole = LitAbsorptionRenderer(32)(scene, camera).image
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(whole, LitAbsorptionRenderer(32)(scene, camera).image)
    finally:
        torch.set_num_threads(threads)
    one = LitAbsorptionRenderer(32)(VoxelGrid(scene.occupancy[1:]), Camera.orbit([130.0], [-40.0])).image
    assert torch.equal(whole[1:], one)


def test_empty_and_full_grids_have_finite_gradients():
    for value in (0.0, 1.0):
        occupancy = torch.full((1, 1, 8, 8, 8), value, requires_grad=True)
        rendered = LitAbsorptionRenderer(16)(VoxelGrid(occupancy), Camera.orbit(10.0, 20.0))
        rendered.image.sum().backward()
        assert torch.isfinite(rendered.image).all() and torch.isfinite(occupancy.grad).all()


@pytest.mark.gpu
def test_triton_agrees_with_the_reference(needs_gpu):
    assert_triton_agrees("cuda", 24)


@pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="test_triton.py runs it with TRITON_INTERPRET=1",
)
def test_triton_interpreted_on_the_cpu_agrees_with_the_reference():
    assert_triton_agrees("cpu", 12)


def assert_triton_agrees(device: str, size: int) -> None:
    occupancy = torch.rand(2, 1, *[size // 2] * 3, generator=torch.Generator().manual_seed(1)).to(device)
    occupancy.requires_grad_()
    camera = Camera.orbit([20.0, 130.0], [15.0, -40.0], 20.0, device)
    results = []
    for backend in ("torch", "triton"):
        rendered = LitAbsorptionRenderer(size, backend=backend)(VoxelGrid(occupancy), camera)
        (gradient,) = torch.autograd.grad(rendered.image.square().sum(), occupancy)
        results.append((rendered.image, rendered.normals, gradient))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
