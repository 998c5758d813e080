"""The soft rasterizer against closed forms and golden images, and its errors."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from soft_scenes import BACKENDS, occlusion, solid, square

from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.meshes.grid_mesh import grid_mesh
from renderers.scenes import TriangleMesh, VoxelGrid
from renderers.soft_rasterizer.renderer import SoftRasterizer

GOLDEN = Path(__file__).parent / "golden"
VIEWS = [(0.0, 0.0, None), (0.0, 0.0, 10.0), (70.0, -20.0, None), (200.0, 40.0, 30.0), (-45.0, 15.0, 10.0)]


def rays(camera: Camera, size: int):
    """Origins and directions (of unit length along the optical axis) through the pixel centres, world frame."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    points = [torch.stack([x, y, torch.full_like(x, d)], -1).view(1, -1, 3) for d in (1.0, 2.0)]
    near, far = (camera.unproject(p)[0].view(size, size, 3) for p in points)
    return near - (far - near), far - near


# Geometry


@pytest.mark.parametrize(("azimuth", "elevation", "fov"), VIEWS)
def test_sphere_matches_ray_casting(azimuth, elevation, fov):
    camera, radius = Camera.orbit(azimuth, elevation, fov), 0.7
    origin, direction = rays(camera, 128)
    a, b = (direction**2).sum(-1), (origin * direction).sum(-1)
    root = b**2 - a * ((origin**2).sum(-1) - radius**2)
    hit = root > 0
    depth = (-b - root.clamp(min=0).sqrt()) / a
    normals = (origin + depth[..., None] * direction) / radius @ camera.rotation[0].T

    rendered = SoftRasterizer(128)(solid(trimesh.creation.icosphere(5, radius)), camera)
    covered = rendered.depth[0, 0].isfinite()
    assert (covered & hit).sum() / (covered | hit).sum() > 0.99
    both = covered & hit
    assert (rendered.depth[0, 0] - depth)[both].abs().median() < 1e-3
    cosine = (rendered.normals[0].permute(1, 2, 0) * normals)[both].sum(-1)
    assert torch.rad2deg(cosine.clamp(max=1).arccos()).median() < 2
    soft = rendered.alpha[0, 0] > 0.5
    assert (soft & hit).sum() / (soft | hit).sum() > 0.97
    # Without a texture the mesh is grey and shaded by its normals.
    shade = Lighting().shade(normals.permute(2, 0, 1)[None])[0, 0]
    assert (rendered.image[0, 0] - shade)[both].abs().median() < 2 / 255


@pytest.mark.parametrize(("azimuth", "elevation", "fov"), VIEWS)
def test_box_matches_ray_casting(azimuth, elevation, fov):
    camera, extents = Camera.orbit(azimuth + 3, elevation + 2, fov), torch.tensor([0.9, 0.5, 0.7])
    origin, direction = rays(camera, 128)
    ends = torch.stack([(-extents / 2 - origin) / direction, (extents / 2 - origin) / direction])
    enter, leave = ends.amin(0).amax(-1), ends.amax(0).amin(-1)
    rendered = SoftRasterizer(128, margin=0)(solid(trimesh.creation.box(extents.tolist())), camera)
    covered, hit = rendered.depth[0, 0].isfinite(), enter < leave
    assert (covered & hit).sum() / (covered | hit).sum() > 0.995
    assert (rendered.depth[0, 0] - enter)[covered & hit].abs().median() < 1e-5
    assert torch.equal(rendered.alpha[0, 0] == 1, covered)


@pytest.mark.parametrize("backend", BACKENDS)
def test_attributes_are_perspective_correct(backend):
    # A floor that recedes from the camera, coloured by the world's z.
    corners = torch.tensor([[-0.5, -0.3, -0.8], [0.5, -0.3, -0.8], [0.5, -0.3, 0.8], [-0.5, -0.3, 0.8]])[None]
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    camera = Camera.orbit(0.0, 20.0, 60.0)
    renderer = SoftRasterizer(64, margin=0, backend=backend)
    rendered = renderer(TriangleMesh(corners, faces, colors=corners[..., 2:]), camera)
    origin, direction = rays(camera, 64)
    t = (-0.3 - origin[..., 1]) / direction[..., 1]
    covered = rendered.depth[0, 0].isfinite()
    assert covered.sum() > 100
    expected = (origin + t[..., None] * direction)[..., 2]
    assert torch.allclose(rendered.image[0, 0][covered], expected[covered], atol=1e-4)
    assert torch.allclose(rendered.depth[0, 0][covered], t[covered], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_uv_zero_is_the_top_left_corner_of_the_texture(backend):
    faces, uvs = grid_mesh(9)
    vertices = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1], torch.zeros(81)], -1)[None]
    faces = torch.cat([faces, torch.tensor([[0, 72, 8], [8, 72, 80]])])  # the whole square
    texture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rendered = SoftRasterizer(16, backend=backend, margin=0)(
        TriangleMesh(vertices, faces, uvs, texture), Camera.orbit(0, 0)
    )
    assert torch.allclose(rendered.image, texture, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_culling_removes_back_faces(backend):
    front, faces = square(-0.5, -0.5, 0.0, 1.0, torch.float32)
    mesh = TriangleMesh(front[None], faces)
    renderer = SoftRasterizer(16, cull_backfaces=True, backend=backend)
    assert renderer(mesh, Camera.orbit(0, 0)).alpha.sum() > 60
    assert renderer(mesh, Camera.orbit(180, 0)).alpha.sum() == 0
    assert SoftRasterizer(16, backend=backend)(mesh, Camera.orbit(180, 0)).alpha.sum() > 60


def test_invisible_triangles_change_nothing():
    mesh = occlusion(0.01234)
    invisible = torch.tensor(
        [
            *([0.1, 0.1, 0.4], [0.1, 0.1, 0.4], [0.3, 0.2, 0.4]),  # two equal corners
            *([-0.2, -0.2, 0.4], [0.0, 0.0, 0.4], [0.2, 0.2, 0.4]),  # collinear corners
            *([0.0, 0.0, 2.5], [0.3, 0.0, 2.5], [0.0, 0.3, 2.5]),  # behind the camera
            *([0.0, 0.0, 2.5], [0.3, 0.0, 1.9], [0.0, 0.3, 0.5]),  # partly behind it
            *([5.0, 5.0, 0.4], [6.0, 5.0, 0.4], [5.0, 6.0, 0.4]),  # off the screen
            *([1e30, 0.0, 0.4], [1e30, 1e30, 0.4], [0.9e30, 1.0, 0.4]),  # far off the screen
        ],
        dtype=torch.float64,
    )
    extra = torch.arange(18).view(6, 3) + 8
    with_invisible = TriangleMesh(
        torch.cat([mesh.vertices, invisible[None]], 1).requires_grad_(),
        torch.cat([extra[:3], mesh.faces, extra[3:]]),
        colors=torch.cat([mesh.colors, torch.ones(1, 18, 3).double()], 1),
    )
    for backend in BACKENDS:
        for fov in (None, 60.0):
            renderer, camera = SoftRasterizer(24, backend=backend), Camera.orbit(10.0, 5.0, fov)
            expected, got = renderer(mesh, camera), renderer(with_invisible, camera)
            assert torch.equal(expected.image, got.image)
            assert torch.equal(expected.alpha, got.alpha)
            assert torch.equal(expected.depth, got.depth)
            (gradient,) = torch.autograd.grad(got.image.sum(), with_invisible.vertices)
            assert gradient.isfinite().all()
            assert (gradient[:, 8:] == 0).all()


def test_empty_mesh_renders_the_background():
    background = torch.rand(2, 1, 8, 8)
    empty = TriangleMesh(torch.rand(2, 5, 3), torch.zeros(0, 3, dtype=torch.long))
    for backend in BACKENDS:
        rendered = SoftRasterizer(8, backend=backend)(empty, Camera.orbit([0.0, 9.0], 0.0), background)
        assert torch.equal(rendered.image, background)
        assert (rendered.alpha == 0).all() and (rendered.depth == math.inf).all() and (rendered.normals == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_does_not_depend_on_the_order_of_triangles(backend):
    generator = torch.Generator().manual_seed(3)
    vertices = (torch.rand(1, 20, 3, generator=generator) * 2 - 1) * 0.7
    faces = torch.randint(0, 20, (30, 3), generator=generator)
    colors = torch.rand(1, 20, 3, generator=generator)
    camera, renderer = Camera.orbit(10, 20, 30.0), SoftRasterizer(32, margin=2.0, backend=backend, normals=False)
    one = renderer(TriangleMesh(vertices, faces, colors=colors), camera)
    other = renderer(TriangleMesh(vertices, faces[torch.randperm(30, generator=generator)], colors=colors), camera)
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.depth, other.depth)


# Golden images and invalid input


@pytest.mark.parametrize("margin", [0, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_golden(margin, backend):
    """``python tests/renderers/test_soft_rasterizer.py`` renders the golden images again; inspect them before a commit."""
    rendered = (golden_image(margin, backend) * 255).round()
    golden = np.array(Image.open(GOLDEN / f"soft_rasterizer_margin_{margin}.png"), dtype=np.float32)
    differs = ((rendered.permute(1, 2, 0) - torch.from_numpy(golden)).abs() > 1).any(-1)
    assert differs.sum() <= 8, f"{differs.sum()} of {differs.numel()} pixels differ by more than 1/255"


def golden_image(margin: float, backend: str) -> torch.Tensor:
    faces, uvs = grid_mesh(33)
    x, y = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    radius, angle = (x**2 + y**2).sqrt().clamp(max=1) * 2.4, torch.atan2(y, x)
    bump = 0.75 + 0.12 * torch.cos(5 * angle) * torch.sin(radius) ** 2
    vertices = torch.stack([radius.sin() * angle.cos(), radius.sin() * angle.sin(), radius.cos()], -1) * bump[:, None]
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    texture = torch.stack([((row // 8 + column // 8) % 2).float() * 0.8 + 0.1, row / 64, column / 64])[None]
    background = torch.stack([torch.linspace(0.2, 0.6, 64).expand(64, 64)] * 3)[None]
    renderer = SoftRasterizer(64, margin=margin, backend=backend, normals=False)
    return renderer(TriangleMesh(vertices[None], faces, uvs, texture), Camera.orbit(60, 25, 10.0), background).image[0]


def square_mesh() -> TriangleMesh:
    vertices, faces = square(-0.5, -0.5, 0.0, 1.0, torch.float32)
    return TriangleMesh(vertices[None], faces)


def test_invalid_input_is_reported_with_its_shape():
    renderer, camera, mesh = SoftRasterizer(8), Camera.orbit(0, 0), square_mesh()
    bad = mesh.vertices.clone()
    bad[0, 2, 1] = math.nan
    with pytest.raises(ValueError, match=r"\(1, 4, 3\) must be finite; 1 are not, the first at \[0, 2\]"):
        renderer(replace(mesh, vertices=bad), camera)
    bad[0, 2, 1] = math.inf
    with pytest.raises(ValueError, match="finite"):
        renderer(replace(mesh, vertices=bad), camera)
    with pytest.raises(ValueError, match=r"faces \(2, 3\) must index 4 vertices, got indices from 0 to 7"):
        renderer(replace(mesh, faces=torch.tensor([[0, 1, 2], [0, 2, 7]])), camera)
    with pytest.raises(ValueError, match="from -1 to 3"):
        renderer(replace(mesh, faces=torch.tensor([[0, 1, 2], [-1, 2, 3]])), camera)
    with pytest.raises(TypeError, match=r"float32 or float64, got torch\.bfloat16"):
        renderer(replace(mesh, vertices=mesh.vertices.bfloat16()), camera)
    with pytest.raises(TypeError, match="colors must have the vertices' dtype"):
        renderer(replace(mesh, colors=torch.ones(1, 4, 3).double()), camera)
    with pytest.raises(TypeError, match="faces must be integers"):
        replace(mesh, faces=mesh.faces.float())
    with pytest.raises(ValueError, match=r"texture \(1, 3, 4, 4\) needs uvs"):
        renderer(replace(mesh, texture=torch.ones(1, 3, 4, 4)), camera)
    with pytest.raises(ValueError, match=r"background must have shape \(1, 1, 8, 8\), got \(1, 3, 8, 8\)"):
        renderer(mesh, camera, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="device"):
        renderer(replace(mesh, faces=mesh.faces.to("meta")), camera)
    with pytest.raises(TypeError, match="SoftRasterizer renders TriangleMesh, got VoxelGrid"):
        renderer(VoxelGrid(torch.zeros(1, 1, 4, 4, 4)), camera)
    with pytest.raises(ValueError, match="must have the same batch size, got 1 and 2"):
        renderer(mesh, Camera.orbit([0.0, 1.0], 0))
    for kwargs in ({"margin": -1.0}, {"depth_slope": -0.1}, {"backend": "opengl"}, {"image_size": 0}):
        with pytest.raises(ValueError, match=r"must"):
            SoftRasterizer(**{"image_size": 8, **kwargs})
    for name, value in (
        ("uvs", torch.ones(3, 2)),
        ("texture", torch.ones(2, 3, 4, 4)),
        ("normals", torch.ones(1, 3, 3)),
        ("colors", torch.ones(1, 3, 3)),
    ):
        with pytest.raises(ValueError, match=f"{name} must have"):
            replace(mesh, **{name: value})


def test_faces_are_checked_again_when_they_change():
    renderer, mesh = SoftRasterizer(8), square_mesh()
    renderer(mesh, Camera.orbit(0, 0))
    mesh.faces[1, 2] = 9
    with pytest.raises(ValueError, match="from 0 to 9"):
        renderer(mesh, Camera.orbit(0, 0))


@pytest.mark.parametrize("share", ["inference mode", "NumPy"])
def test_faces_may_change_where_torch_does_not_notice(share):
    def alpha(renderer: SoftRasterizer, faces: torch.Tensor) -> torch.Tensor:
        return renderer(replace(square_mesh(), faces=faces), Camera.orbit(0, 0)).alpha

    renderer, first = SoftRasterizer(8), square_mesh().faces[:1]
    with torch.inference_mode(share == "inference mode"):
        faces = torch.from_numpy(first.numpy().copy()) if share == "NumPy" else first.clone()
        before = alpha(renderer, faces)
        if share == "NumPy":
            faces.numpy()[:] = square_mesh().faces[1:].numpy()
        else:
            faces.copy_(square_mesh().faces[1:])
        after = alpha(renderer, faces)
        assert torch.equal(after, alpha(SoftRasterizer(8), faces)) and not torch.equal(after, before)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_an_empty_batch_has_empty_images(backend):
    mesh = square_mesh()
    vertices = mesh.vertices[:0].clone().requires_grad_()
    rendering = SoftRasterizer(8, backend=backend)(
        TriangleMesh(vertices, mesh.faces), Camera(torch.zeros(0), torch.zeros(0))
    )
    assert rendering.image.shape == (0, 1, 8, 8) and rendering.depth.shape == (0, 1, 8, 8)
    rendering.image.sum().backward()
    assert vertices.grad.shape == vertices.shape


def test_training_works_after_rendering_in_inference_mode():
    renderer, mesh = SoftRasterizer(8), square_mesh()
    with torch.inference_mode():
        renderer(mesh, Camera.orbit(0, 0))
    vertices = mesh.vertices.clone().requires_grad_()
    renderer(replace(mesh, vertices=vertices), Camera.orbit(0, 0)).normals.sum().backward()
    assert vertices.grad.isfinite().all()


def test_works_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        image = SoftRasterizer(16)(square_mesh(), Camera.orbit(0, 0)).image
    assert image.dtype == torch.float32
    assert torch.equal(image, SoftRasterizer(16)(square_mesh(), Camera.orbit(0, 0)).image)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for margin in (0, 1):
        image = (golden_image(margin, "torch") * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(image).save(GOLDEN / f"soft_rasterizer_margin_{margin}.png")
