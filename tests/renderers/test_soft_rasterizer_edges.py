"""The soft rasterizer at edges: layers and weights, gradients against finite differences, continuity."""

from dataclasses import replace

import pytest
import torch
import trimesh
from soft_scenes import BACKENDS, occlusion, solid, square

from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer.renderer import SoftRasterizer


def lone_square(dx):
    mesh = occlusion(dx)
    return replace(mesh, faces=mesh.faces[:2])


# Layers and weights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("margin", [0.0, 1.0, 3.0])
def test_weights_sum_to_one(backend, margin):
    shape = solid(trimesh.creation.torus(0.6, 0.25))
    white = replace(shape, colors=torch.ones_like(shape.vertices))
    background = torch.ones(1, 3, 40, 40)
    rendered = SoftRasterizer(40, margin=margin, backend=backend)(white, Camera.orbit(20, 50, 10.0), background)
    assert torch.allclose(rendered.image, background, atol=1e-6)
    assert rendered.alpha.min() >= 0 and rendered.alpha.max() <= 1 + 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_falls_from_one_at_the_edge_to_zero_at_the_margin(backend):
    size, margin = 32, 3.0
    for shift in (0.1, 0.35, 0.8):
        edge = 16 + shift  # pixels; a half plane's right edge
        x = edge / size * 2 - 1
        corners = torch.tensor([[-9.0, -9.0, 0.0], [x, -9.0, 0.0], [x, 9.0, 0.0], [-9.0, 9.0, 0.0]])[None]
        mesh = TriangleMesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
        alpha = SoftRasterizer(size, margin=margin, backend=backend)(mesh, Camera.orbit(0, 0)).alpha
        expected = (1 - (torch.arange(size) + 0.5 - edge) / margin).clamp(0, 1)
        assert torch.allclose(alpha, expected.expand_as(alpha), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fov", [None, 10.0])
def test_a_gap_of_a_tenth_fades_over_the_whole_margin(backend, fov):
    mesh = occlusion(0.0123, gap=0.1)
    rendered = SoftRasterizer(64, backend=backend)(mesh, Camera.orbit(0, 0, fov))
    alone = SoftRasterizer(64, backend=backend)(replace(mesh, faces=mesh.faces[:2]), Camera.orbit(0, 0, fov))
    dark, bright = mesh.colors[0, 4].view(3, 1, 1), mesh.colors[0, 0].view(3, 1, 1)
    inside = (slice(None), slice(15, 49), slice(15, 49))  # well within the back square
    expected = alone.alpha[0] * bright + (1 - alone.alpha[0]) * dark
    assert torch.allclose(rendered.image[0][inside], expected[inside], atol=1e-9)
    assert ((alone.alpha > 0.01) & (alone.alpha < 0.6)).sum() > 30


def test_a_steep_depth_slope_hides_the_extension_that_a_small_gap_needs():
    mesh = occlusion(0.0123, gap=0.03)
    shallow = SoftRasterizer(64, depth_slope=0.01)(mesh, Camera.orbit(0, 0)).image
    steep = SoftRasterizer(64, depth_slope=1.0)(mesh, Camera.orbit(0, 0)).image
    assert ((shallow - steep).abs() > 0.1).sum() > 30


# Gradients


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0])
def test_gradcheck(backend, fov, margin):
    generator = torch.Generator().manual_seed(5)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    vertices = ((rand(2, 7, 3) * 2 - 1) * 0.8).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [2, 3, 4], [4, 5, 6], [0, 3, 6]])
    uvs, texture = rand(7, 2).requires_grad_(), rand(2, 2, 4, 5).requires_grad_()
    background = rand(2, 2, 6, 6).requires_grad_()
    azimuth = torch.tensor([20.0, -70.0], dtype=torch.float64, requires_grad=True)
    camera = Camera(azimuth, torch.tensor([10.0, 30.0], dtype=torch.float64), fov)
    renderer = SoftRasterizer(6, margin=margin, backend=backend)

    def textured(vertices, uvs, texture, background, azimuth):
        rendered = renderer(TriangleMesh(vertices, faces, uvs, texture), replace(camera, azimuth=azimuth), background)
        return rendered.image, rendered.alpha, rendered.depth.clamp(max=9), rendered.normals

    def colored(vertices, colors, normals):
        rendered = renderer(TriangleMesh(vertices, faces, normals=normals, colors=colors), camera)
        return rendered.image, rendered.normals

    def fixed_uvs(vertices, texture):
        return renderer(TriangleMesh(vertices, faces, uvs.detach(), texture), camera).image

    def lit(vertices):
        lighting = Lighting(0.1, ((0.0, 0.3, 1.0), (0.2, 0.0, -1.0)), (0.4, 0.3))
        return SoftRasterizer(6, margin=margin, backend=backend, lighting=lighting)(
            TriangleMesh(vertices, faces, uvs.detach(), texture.detach()), camera
        ).image

    colors, normals = rand(2, 7, 3).requires_grad_(), rand(2, 7, 3).requires_grad_()
    assert torch.autograd.gradcheck(fixed_uvs, (vertices, texture))
    for function, inputs in (
        (textured, (vertices, uvs, texture, background, azimuth)),
        (colored, (vertices, colors, normals)),
        (lit, (vertices,)),
    ):
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scene", [lone_square, occlusion])
@pytest.mark.parametrize("fov", [None, 10.0])
def test_gradient_of_a_moving_edge_matches_the_central_difference(backend, scene, fov):
    size, camera = 32, Camera.orbit(0.0, 0.0, fov)
    weight = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(dx, margin):
        return (SoftRasterizer(size, margin=margin, backend=backend)(scene(dx), camera).image * weight).sum()

    for dx in (0.0, 0.007, 0.019, 0.033, 0.051):
        x = torch.tensor(dx, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(x, 1.0), x)
        h = 1e-6
        difference = (loss(dx + h, 1.0) - loss(dx - h, 1.0)) / (2 * h)
        assert abs(gradient) > 0.1
        assert torch.allclose(gradient, difference, rtol=1e-5)
        (gradient,) = torch.autograd.grad(loss(x, 0.0), x)
        assert abs(gradient) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_as_an_edge_crosses_pixel_centres(backend):
    # As a vertical edge crosses a pixel centre, the next pixel starts to change where this one stops. The sum over the image
    # has the same slope on both sides, which the gradient equals.
    size = 16
    corners, faces = square(-0.5, -0.5, 0.0, 1.0)
    right = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64) * torch.tensor([[1.0, 0.0, 0.0]])

    def total(x, margin):
        mesh = TriangleMesh((corners + right * x)[None], faces, colors=torch.ones(1, 4, 1).double())
        return SoftRasterizer(size, margin=margin, backend=backend)(mesh, Camera.orbit(0, 0)).image.sum()

    crossing, h = 1 / size, 1e-5  # the edge starts at pixel 12, this moves it to the centre at 12.5
    slope = (total(crossing + h, 1.0) - total(crossing - h, 1.0)) / (2 * h)
    assert slope > 60  # 8 rows plus corners, 8 pixels per unit
    for x in (crossing - h, crossing + h):
        x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(total(x, 1.0), x)
        assert torch.allclose(gradient, slope, rtol=1e-3)
        (gradient,) = torch.autograd.grad(total(x, 0.0), x)
        assert abs(gradient) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scene", [lone_square, occlusion])
@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_image_is_continuous_as_edges_move_over_pixels(backend, scene, margin):
    size, step = 16, 1e-3
    pixels_per_step = step * size / 2

    def largest_jump(margin):
        renderer, camera = (
            SoftRasterizer(size, margin=margin, backend=backend, normals=False),
            Camera.orbit(20, 10, 10.0),
        )
        images = torch.cat([renderer(scene(i * step), camera).image for i in range(300)])
        return (images[1:] - images[:-1]).abs().max()

    assert largest_jump(margin) < 1.5 * pixels_per_step / margin
    assert largest_jump(0.0) > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_image_of_a_rotating_mesh_is_continuous(backend):
    # Edges of many triangles enter margins and cross centres at once. The depth slope is steeper than any face, so that no
    # face blurs itself. Only silhouettes remain, and nothing may jump.
    shape = solid(trimesh.creation.box((0.9, 0.7, 0.8)))
    colors = torch.rand(1, 8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mesh = replace(shape, vertices=shape.vertices.double(), colors=colors)
    renderer = SoftRasterizer(24, depth_slope=1.0, backend=backend, normals=False)
    images = torch.cat([renderer(mesh, Camera.orbit(30 + 0.01 * i, 20, 10.0)).image for i in range(400)])
    assert (images[1:] - images[:-1]).abs().max() < 0.01
    assert (images[-1] - images[0]).abs().max() > 0.1
