"""Colours of voxels in OpenGL and in the differentiable renderers."""

import pytest
import torch

from datamodules.shapes import ProceduralShapes
from networks import RenderNet, ShadingNet
from renderers import (
    Camera,
    DeferredNeuralRenderer,
    EmissionAbsorptionRenderer,
    InputError,
    LitAbsorptionRenderer,
    NeuralRenderer,
    OpenGLRenderer,
    VoxelGrid,
)
from renderers.opengl.voxel_color import voxel_colors

BACKENDS = ("pyrender", "moderngl")
RED, BLUE, JUNK = (1.0, 0.25, 0.0), (0.0, 0.5, 1.0), (0.0, 1.0, 0.0)


def two_halves() -> VoxelGrid:
    """A cuboid, red for x < 0 and blue for x > 0, among empty voxels of a colour that must never show."""
    occupancy, color = torch.zeros(1, 1, 16, 16, 16), torch.tensor(JUNK).view(1, 3, 1, 1, 1).repeat(1, 1, 16, 16, 16)
    occupancy[..., 4:12, 4:12, 4:12] = 1
    color[..., 4:12, 4:12, 4:8] = torch.tensor(RED).view(3, 1, 1, 1)
    color[..., 4:12, 4:12, 8:12] = torch.tensor(BLUE).view(3, 1, 1, 1)
    return VoxelGrid(occupancy, color)


def chairs(count: int) -> VoxelGrid:
    grids = [ProceduralShapes("chair", count, 32, colored=True)[i].voxels for i in range(count)]
    return VoxelGrid(torch.cat([g.occupancy for g in grids]), torch.cat([g.color for g in grids]))


@pytest.mark.parametrize("fov", [None, 30.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sides_show_their_own_color(backend, fov):
    scene, unlit = two_halves(), OpenGLRenderer(32, lighting="unlit", backend=backend, colored=True)
    for azimuth, expected in ((90, BLUE), (-90, RED)):
        image = unlit(scene, Camera.orbit(azimuth, 0.0, fov)).image
        assert image.shape == (1, 3, 32, 32)
        assert torch.allclose(image[0, :, 16, 16], torch.tensor(expected), atol=0.01)
    image = unlit(scene, Camera.orbit(0, 0.0, fov)).image[0]
    assert torch.allclose(image[:, 16, 13], torch.tensor(RED), atol=0.01)
    assert torch.allclose(image[:, 16, 18], torch.tensor(BLUE), atol=0.01)
    assert (image[:, 0, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_voxels_never_show(backend):
    """Green of more than half of red and blue could only be that of empty voxels, silhouettes included.

    The tolerance is for multisampling, which extrapolates the colours of a triangle at its edges.
    """
    cameras = Camera.orbit(torch.arange(8) * 41.0, 25.0)
    scene = two_halves()
    batch = VoxelGrid(scene.occupancy.expand(8, -1, -1, -1, -1), scene.color.expand(8, -1, -1, -1, -1))
    image = OpenGLRenderer(32, lighting="unlit", backend=backend, colored=True)(batch, cameras).image
    assert (image[:, 1] <= 0.5 * image[:, ::2].sum(1) + 0.06).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_light_is_that_of_white_voxels(backend):
    scene, camera = two_halves(), Camera.orbit([20.0], 30.0)
    white = OpenGLRenderer(32, backend=backend)(scene, camera)
    one_color = VoxelGrid(scene.occupancy, torch.tensor(RED).view(1, 3, 1, 1, 1).expand(1, 3, 16, 16, 16))
    colored = OpenGLRenderer(32, backend=backend, colored=True)(one_color, camera)
    assert torch.allclose(colored.image, white.image * torch.tensor(RED).view(3, 1, 1), atol=0.01)
    assert torch.equal(colored.alpha, white.alpha) and white.image.shape[1] == 1


@pytest.mark.parametrize("fov", [None, 30.0])
def test_backends_agree(fov):
    scene, cameras = chairs(4), Camera.orbit([10.0, 100.0, 190.0, 280.0], 20.0, fov)
    images = [OpenGLRenderer(64, backend=b, colored=True)(scene, cameras).image for b in BACKENDS]
    white = [OpenGLRenderer(64, backend=b)(scene, cameras).image for b in BACKENDS]
    difference, reference = ((a - b).abs().mean().item() for a, b in (images, white))
    assert images[0].mean() > 0.01 and difference < reference


def test_cubes_have_flat_colors():
    image = OpenGLRenderer(64, lighting="unlit", surface="cubes", colored=True)(
        two_halves(), Camera.orbit(0, 0.0)
    ).image[0]
    for column, expected in ((30, RED), (33, BLUE)):  # one pixel from the boundary
        assert torch.allclose(image[:, 32, column], torch.tensor(expected), atol=0.01)


def test_a_point_beside_a_solid_voxel_has_its_color():
    scene = two_halves()
    points = torch.tensor([[[0.25, 0.0, 0.0], [-0.25, 0.1, 0.1], [0.25 + 1.1 / 16, 0.0, 0.0]]])
    colors = voxel_colors(scene.occupancy > 0.5, scene.color, points)[0].T
    assert torch.allclose(colors, torch.tensor([BLUE, RED, BLUE]), atol=1e-5)


def test_bad_input():
    with pytest.raises(InputError, match="set backend to pyrender or surface to marching_cubes"):
        OpenGLRenderer(16, backend="moderngl", surface="cubes", colored=True)
    scene = VoxelGrid(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 2, 8, 8, 8))
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
            OpenGLRenderer(16, backend=backend, colored=True)(scene, Camera.orbit(0, 0.0))


def test_white_renders_keep_their_cache_key():
    assert "colored" not in OpenGLRenderer(16).cache_key() and "colored" in OpenGLRenderer(16, colored=True).cache_key()


def test_the_lit_color_is_the_emitted_color_times_the_shade():
    scene, camera = chairs(1), Camera.orbit([30.0], 20.0)
    lit, white = LitAbsorptionRenderer(64)(scene, camera), LitAbsorptionRenderer(64)(VoxelGrid(scene.occupancy), camera)
    emitted = EmissionAbsorptionRenderer(64)(scene, camera).image
    assert torch.allclose(lit.image * white.alpha, emitted * white.image, atol=1e-5)
    opengl = OpenGLRenderer(64, backend="moderngl", colored=True)(scene, camera).image
    assert (lit.image - opengl).abs().mean() < 3 / 255


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("deferred", [False, True])
def test_gradients_of_occupancy_and_color_are_exact(backend, deferred):
    random = torch.Generator().manual_seed(0)
    occupancy, color = (torch.rand(1, c, 4, 4, 4, generator=random).double() * 0.8 + 0.1 for c in (1, 3))
    if deferred:
        torch.manual_seed(0)
        renderer = DeferredNeuralRenderer(ShadingNet(width=4).double(), 6, backend=backend)
    else:
        renderer = LitAbsorptionRenderer(6, backend=backend)
    camera = Camera(torch.tensor([33.0]).double(), torch.tensor([21.0]).double())
    inputs = [x.requires_grad_() for x in (occupancy, color)]
    assert torch.autograd.gradcheck(lambda o, c: renderer(VoxelGrid(o, c), camera).image, inputs, fast_mode=True)


def test_the_deferred_image_is_the_albedo_times_the_learned_shade():
    scene, camera = chairs(1), Camera.orbit([30.0], 20.0)
    renderer = DeferredNeuralRenderer(ShadingNet(width=4), 64)
    grey = renderer(VoxelGrid(scene.occupancy), camera)
    emitted = EmissionAbsorptionRenderer(64)(scene, camera).image
    assert torch.allclose(renderer(scene, camera).image * grey.alpha, emitted * grey.image, atol=1e-5)


def test_only_the_network_on_voxels_is_grey():
    assert not NeuralRenderer(RenderNet(16, 16, width=16, channels_3d=(2, 4, 4)), 16).colored
