import math

import pytest
import torch

from renderers import Camera, NeuralRenderer, Renderer, VoxelGrid
from renderers.grid_sampling import camera_lattice, resample, resample_reference


def single_voxel(z: int, y: int, x: int, size: int = 8) -> torch.Tensor:
    volume = torch.zeros(1, 1, size, size, size)
    volume[0, 0, z, y, x] = 1
    return volume


def first_occupied(rotated: torch.Tensor) -> tuple[int, ...]:
    """Index (depth, row, column) of the first occupied element of the 16³ lattice of an 8³ grid."""
    return tuple(rotated[0, 0].nonzero()[0].tolist())


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [
        # voxel (z=7, y=6, x=5): front, upper, right. The 8³ grid fills lattice indices 4 to 11.
        (0.0, (4 + 0, 4 + 1, 4 + 5)),  # front is near, up is a small row, right is a large column
        (90.0, (4 + 2, 4 + 1, 4 + 0)),  # seen from +x: the front is on the left, large x is near
        (180.0, (4 + 7, 4 + 1, 4 + 2)),
        (270.0, (4 + 5, 4 + 1, 4 + 7)),
    ],
)
def test_quarter_turns_move_a_voxel_to_the_expected_index(azimuth, expected):
    rotated = resample(single_voxel(7, 6, 5), Camera.orbit(azimuth, 0.0))
    assert rotated.shape == (1, 1, 16, 16, 16)
    assert rotated.sum().item() == pytest.approx(1, abs=1e-4)
    assert first_occupied(rotated > 0.5) == expected


def test_seen_from_above_the_top_is_near_and_the_front_at_the_bottom():
    rotated = resample(single_voxel(7, 6, 5), Camera.orbit(0.0, 90.0))
    assert first_occupied(rotated > 0.5) == (4 + 1, 4 + 7, 4 + 5)


@pytest.mark.parametrize("fov", [None, 20.0])
def test_lattice_projects_to_pixel_centres(fov):
    camera = Camera.orbit([20.0, 200.0], [40.0, -10.0], fov)
    x, y, depth = camera.project(camera_lattice(camera, 6).view(2, -1, 3)).view(2, 6, 6, 6, 3).unbind(-1)
    axis = (torch.arange(6) + 0.5) / 3 - 1
    assert torch.allclose(x, axis.view(1, 1, 1, 6).expand_as(x), atol=1e-5)
    assert torch.allclose(y, -axis.view(1, 1, 6, 1).expand_as(y), atol=1e-5)
    assert torch.allclose(depth, (camera.distance + axis).view(1, 6, 1, 1).expand_as(depth), atol=1e-5)


def test_gradient_reaches_the_occupancy():
    volume = torch.rand(2, 1, 8, 8, 8, requires_grad=True)
    resample(volume, Camera.orbit([10.0, 50.0], 30.0)).sum().backward()
    assert (volume.grad > 0).all()


def test_neural_renderer_returns_the_networks_image():
    class Mean(torch.nn.Module):
        def forward(self, rotated):
            return rotated.mean(2)

    renderer = NeuralRenderer(Mean(), image_size=16)
    grid, camera = VoxelGrid(torch.rand(2, 1, 8, 8, 8)), Camera.orbit([10.0, 50.0], 30.0)
    rendering = renderer(grid, camera)
    assert torch.allclose(rendering.image, resample(grid.occupancy, camera).mean(2))
    assert rendering.alpha.shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="has 16 pixels per side, image_size is 8"):
        NeuralRenderer(Mean(), image_size=8)(grid, camera)
    with pytest.raises(ValueError, match="must have the same batch size, got 2 and 1"):
        renderer(grid, camera[:1])
    with pytest.raises(TypeError, match="renders VoxelGrid, got Camera"):
        Renderer.forward.__wrapped__(renderer, camera, camera)


@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_kernel_equals_grid_sample(dtype, tolerance, fov):
    g = torch.Generator().manual_seed(0)
    results = []
    for function in (resample_reference, resample):
        volume = torch.rand(2, 2, 5, 5, 5, dtype=dtype, generator=g.manual_seed(0)).requires_grad_()
        angles = [torch.tensor(a, dtype=dtype).requires_grad_() for a in ([20.0, 130.0], [15.0, -40.0])]
        output = function(volume, Camera(*angles, fov), 9)
        (torch.rand(output.shape, dtype=dtype, generator=g.manual_seed(1)) * output).sum().backward()
        results.append([output, volume.grad, *(a.grad for a in angles)])
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max()


@pytest.mark.parametrize("fov", [None, 40.0])
def test_without_a_finite_angle_the_kernel_reads_no_voxel(fov):
    volume = torch.ones(2, 1, 8, 8, 8, requires_grad=True)
    rotated = resample(volume, Camera.orbit([math.nan, 10.0], 0.0, fov))
    (gradient,) = torch.autograd.grad(rotated.sum(), volume)
    assert rotated[0].count_nonzero() == gradient[0].count_nonzero() == 0
    assert torch.equal(rotated[1:], resample(volume[1:], Camera.orbit(10.0, 0.0, fov)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool])
def test_grids_of_other_types_are_rotated_in_single_precision(dtype):
    occupancy = (torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).to(dtype)
    camera, renderer = Camera.orbit(20.0, 30.0), NeuralRenderer(torch.nn.Identity(), 16)
    assert torch.equal(renderer.rotate(VoxelGrid(occupancy), camera), resample(occupancy.float(), camera))
