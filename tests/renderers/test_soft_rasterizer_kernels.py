"""Every backend of the soft rasterizer against the plain-torch reference, in value and gradient."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers import numba_jit
from renderers.cameras import Camera
from renderers.lighting import Lighting
from renderers.meshes.grid_mesh import grid_mesh
from renderers.meshes.vertex_normals import vertex_normals
from renderers.scenes import TriangleMesh
from renderers.soft_rasterizer.renderer import SoftRasterizer
from utils.transfer import HostCopy

FAST = settings(max_examples=40, deadline=None, derandomize=True)


def render(
    mesh: TriangleMesh, camera: Camera, renderer: SoftRasterizer, background=None, mask=1.0
) -> dict[str, torch.Tensor]:
    """All images, and the gradients of a fixed random sum of them over the mask, by name."""
    names = ("vertices", "texture", "colors")
    leaves = {n: getattr(mesh, n).detach().clone().requires_grad_() for n in names if getattr(mesh, n) is not None}
    rendered = renderer(TriangleMesh(faces=mesh.faces, uvs=mesh.uvs, **leaves), camera, background)
    values = {
        "image": rendered.image,
        "alpha": rendered.alpha,
        "depth": rendered.depth.where(rendered.depth.isfinite(), 0.0),
        "normals": rendered.normals,
    }
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (v * mask * torch.rand(v.shape, generator=generator, dtype=v.dtype).to(v.device)).sum() for v in values.values()
    )
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {**values, **{f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True) if g is not None}}


def assert_agree(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item()) if name.startswith("gradient") else 1.0
        error = (actual[name].to(value) - value).abs().max().item() / scale
        assert error <= tolerance, f"{name} differs by {error}"


def random_triangles(seed: int, count: int, dtype: torch.dtype, colored: bool) -> TriangleMesh:
    """Triangles of all sizes that intersect and occlude each other."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    vertices = (rand(2, 3 * count, 3) * 2 - 1) * 0.9
    spread = rand(1, count, 1, 1)
    triangles = vertices.view(2, count, 3, 3)
    vertices = (triangles[:, :, :1] + (triangles - triangles[:, :, :1]) * spread).reshape(2, -1, 3)
    faces = torch.arange(3 * count).view(count, 3)
    if colored:
        return TriangleMesh(vertices, faces, colors=rand(2, 3 * count, 2))
    return TriangleMesh(vertices, faces, rand(3 * count, 2) * 1.2 - 0.1, rand(2, 3, 5, 7))


@FAST
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 40),
    margin=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    fov=st.sampled_from([None, 10.0, 60.0]),
    colored=st.booleans(),
    lit=st.booleans(),
    cull=st.booleans(),
    slope=st.sampled_from([None, 0.0, 0.3]),
)
def test_numba_agrees_on_random_triangles(seed, count, margin, fov, colored, lit, cull, slope):
    mesh = random_triangles(seed, count, torch.float64, colored)
    camera = Camera.orbit([25.0, 190.0], [10.0, -50.0], fov)
    background = torch.rand(2, 2 if colored else 3, 19, 19, dtype=torch.float64)
    expected, actual = (
        render(
            mesh,
            camera,
            SoftRasterizer(19, margin, slope, cull, Lighting() if lit else None, True, backend),
            background,
        )
        for backend in ("torch", "numba")
    )
    assert_agree(actual, expected, 1e-9)


def deformed_sphere(seed: int, dtype: torch.dtype, device: str = "cpu", size: int = 24) -> TriangleMesh:
    faces, uvs = grid_mesh(size, device)
    u, v = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    radius, angle = (u**2 + v**2).sqrt().clamp(max=1) * 2.5, torch.atan2(v, u)
    unit = torch.stack([radius.sin() * angle.cos(), radius.sin() * angle.sin(), radius.cos()], -1)
    generator = torch.Generator().manual_seed(seed)
    waves = torch.rand(2, 3, 3, generator=generator).to(device) * 5
    vertices = unit * 0.7 + 0.1 * torch.sin(torch.einsum("vi,bij->bvj", unit, waves))
    texture = torch.rand(2, 3, 16, 16, generator=generator).to(device)
    return TriangleMesh(vertices.to(dtype), faces, uvs.to(dtype), texture.to(dtype))


def assert_agree_in_single_precision(
    one: SoftRasterizer, other: SoftRasterizer, seed: int, device: str, size: int = 24
) -> None:
    """Check that images agree within 1e-4 except at two pixels, and the gradients of all other pixels.

    The exceptions are depths that tie within rounding. In double precision nothing ties.
    """
    mesh, camera = (
        deformed_sphere(seed, torch.float32, device, size),
        Camera.orbit([33.0, -140.0], [21.0, -8.0], 10.0, device),
    )
    names = ("image", "alpha", "depth", "normals")
    first, second = render(mesh, camera, one), render(mesh, camera, other)
    same = torch.stack([((first[n] - second[n]).abs() <= 1e-4).all(1, keepdim=True) for n in names]).all(0)
    assert (~same).sum() <= 2
    first, second = render(mesh, camera, one, mask=same), render(mesh, camera, other, mask=same)
    for name in first.keys() - set(names):
        # Up to four vertices may belong to slivers whose gradient is dominated by rounding.
        wrong = ((first[name] - second[name]).abs() > 1e-4 * first[name].abs().max()).any(-1)
        assert wrong.sum() <= 4, name


@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_numba_in_single_precision_agrees_with_the_reference(seed, margin):
    reference, kernel = (SoftRasterizer(48, margin, backend=b) for b in ("torch", "numba"))
    assert_agree_in_single_precision(reference, kernel, seed, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("margin", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_triton_agrees_with_the_reference(seed, margin, needs_gpu):
    reference, kernel = (SoftRasterizer(48, margin, backend=b) for b in ("torch", "triton"))
    assert_agree_in_single_precision(reference, kernel, seed, "cuda")


interpreted = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="test_triton.py runs it with TRITON_INTERPRET=1",
)


@interpreted
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_triton_interpreted_on_the_cpu_agrees_with_the_reference(margin):
    reference, kernel = (SoftRasterizer(12, margin, backend=b) for b in ("torch", "triton"))
    assert_agree_in_single_precision(reference, kernel, 0, "cpu", size=8)
    camera = Camera.orbit([25.0, 190.0], [10.0, -50.0])
    for colored in (True, False):
        mesh = random_triangles(3, 5, torch.float32, colored)
        assert_agree(render(mesh, camera, kernel), render(mesh, camera, reference), 1e-4)


@interpreted
def test_triton_interpreted_renders_without_waiting(caplog):
    """The first render is exact; later ones have room for twice as many fragments, and a warning reports those left out."""
    from renderers.soft_rasterizer import triton_backend

    camera, mesh = Camera.orbit([0.0], 0.0), squares(9)
    expected = render(mesh, camera, SoftRasterizer(5, 2.0, 0.0, backend="torch"))
    renderer = SoftRasterizer(5, 2.0, 0.0, backend="triton").without_waiting()
    triton_backend._capacities.clear()
    for _ in range(2):
        assert_agree(render(mesh, camera, renderer), expected, 5e-3)
    (room,) = triton_backend._capacities.values()
    assert room.capacity >= 2 * int(room.count.wait()) > 2 * 25  # more than the initial capacity
    room.capacity, room.count = 30, HostCopy(torch.zeros(1))  # as if the previous render had few
    rendered = render(mesh, camera, renderer)
    assert all(value.isfinite().all() for value in rendered.values()) and not caplog.records
    with torch.no_grad():
        image = renderer(mesh, camera).image
    assert "a training step rendered only 30 of" in caplog.text
    assert torch.allclose(image, expected["image"], atol=1e-4)
    room.capacity, room.count = 30, HostCopy(torch.zeros(1))
    with torch.no_grad():
        image = renderer(mesh, camera).image
    assert torch.allclose(image, expected["image"], atol=1e-4)  # without gradients all fragments are rendered


def test_normals_agree_and_point_outward():
    sphere = trimesh.creation.icosphere(2)
    vertices = torch.tensor(np.array(sphere.vertices))[None].requires_grad_()
    faces = torch.tensor(np.array(sphere.faces), dtype=torch.int32)
    from renderers.soft_rasterizer import numba_backend

    expected, actual = vertex_normals(vertices, faces), numba_backend.vertex_normals(vertices, faces)
    assert torch.allclose(expected, actual)
    assert (expected * vertices).sum(-1).min() > 0.99
    weight = torch.rand(expected.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((n * weight).sum(), vertices)[0] for n in (expected, actual)]
    assert torch.allclose(*gradients)
    assert torch.autograd.gradcheck(lambda v: numba_backend.vertex_normals(v, faces), (vertices,), fast_mode=True)


def squares(count: int, dtype: torch.dtype = torch.float32) -> TriangleMesh:
    """Squares behind each other, each slightly wider than the one in front: pixels at their edges have many fragments."""
    half = torch.linspace(0.3, 0.6, count, dtype=dtype)
    depth = torch.linspace(0.9, -0.9, count, dtype=dtype)
    corner = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=dtype)
    vertices = torch.cat([corner * half[:, None, None], depth[:, None, None].expand(-1, 4, 1)], -1).view(1, -1, 3)
    square = torch.tensor([[0, 1, 2], [0, 2, 3]])
    faces = (square + 4 * torch.arange(count).view(-1, 1, 1)).view(-1, 3)
    return TriangleMesh(vertices, faces, colors=torch.rand(1, 4 * count, 3, dtype=dtype))


def test_more_fragments_than_the_initial_capacity():
    mesh, size = squares(400, torch.float64), 8
    expected, actual = (
        render(mesh, Camera.orbit(0, 0), SoftRasterizer(size, 2.0, 0.0, backend=b)) for b in ("torch", "numba")
    )
    assert_agree(actual, expected, 1e-9)


def test_result_does_not_depend_on_threads():
    mesh, camera = deformed_sphere(0, torch.float32), Camera.orbit([33.0, -140.0], 21.0, 10.0)
    renderer = SoftRasterizer(32)
    one = render(mesh, camera, renderer)
    torch.set_num_threads(2)
    try:
        two = render(mesh, camera, renderer)
    finally:
        torch.set_num_threads(1)
    assert_agree(two, one, 0.0)


def test_kernels_compile_without_a_writable_cache(monkeypatch):
    def refuse_to_cache(function, cache=False, **kwargs):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(numba_jit.numba, "njit", refuse_to_cache)
    assert numba_jit.compiled(abs)(-3) == 3


def test_rejects_a_backend_for_another_device():
    mesh, camera = deformed_sphere(0, torch.float32), Camera.orbit([0.0, 1.0], 0.0)
    with pytest.raises(ValueError, match="'triton' requires scenes on cuda, got a scene on cpu"):
        SoftRasterizer(8, backend="triton")(mesh, camera)


def test_backward_after_modifying_vertices_raises():
    mesh = deformed_sphere(0, torch.float32)
    vertices = mesh.vertices.clone().requires_grad_()
    moved = vertices.contiguous() * 1.0
    rendered = SoftRasterizer(16)(
        TriangleMesh(moved, mesh.faces, mesh.uvs, mesh.texture), Camera.orbit([0.0, 1.0], 0.0)
    )
    with torch.no_grad():
        moved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        rendered.image.sum().backward()
