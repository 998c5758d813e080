"""pyrender and moderngl render the same images, also in one process."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from solids import angles, ball_mesh, blob, both_opaque, chair, coverage_iou, grids, mean_difference

pytest.importorskip("moderngl")

from skimage.measure import marching_cubes

from renderers import Camera, OpenGLRenderer, TriangleMesh, ViewDistribution, VoxelGrid
from renderers.opengl.egl import log_renderer
from renderers.opengl.voxel_raycast import raycaster
from renderers.opengl.voxel_raycast.marching_cubes_table import cell_planes, surface_points
from renderers.opengl.voxel_raycast.ray_culling import RayCuller
from renderers.opengl.voxel_raycast.ray_culling_numba import depth_slices


def views(n, fov=None, seed=1):
    return ViewDistribution(fov=fov).sample(n, torch.Generator().manual_seed(seed))


def both(scene, camera, size=128, **options):
    return [OpenGLRenderer(size, backend=b, **options)(scene, camera) for b in ("pyrender", "moderngl")]


@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("surface", ["marching_cubes", "cubes"])
def test_voxels_agree(surface, fov):
    scene = grids(chair(), blob(seed=1), chair(leg=3), blob(seed=2), torch.zeros(64, 64, 64), torch.ones(64, 64, 64))
    a, b = both(scene, views(6, fov), surface=surface)
    inner = both_opaque(a, b)
    assert mean_difference(a.image, b.image) < 1.2
    assert mean_difference(a.alpha, b.alpha) < 0.2
    assert coverage_iou(a.alpha, b.alpha) > 0.998
    assert (a.depth - b.depth)[inner].abs().median() < 2e-3
    assert angles(a.normals, b.normals)[inner].median() < 2


@pytest.mark.parametrize(("voxels", "size"), [(64, 128), (32, 128), (16, 128), (24, 192)])
def test_edges_in_front_of_other_surface_agree(voxels, size):
    """A small plate in front of a large one: alpha is 1 on both sides of its outline, which only depth reveals."""
    unit = voxels // 16
    solid = torch.zeros(voxels, voxels, voxels)
    solid[10 * unit : 11 * unit, 4 * unit : 12 * unit, 4 * unit : 12 * unit] = 1
    solid[2 * unit : 3 * unit, unit : 15 * unit, unit : 15 * unit] = 1
    camera = ViewDistribution(azimuth=(-40, 40), elevation=(-30, 30)).sample(16, torch.Generator().manual_seed(0))
    a, b = both(grids(*[solid] * 16), camera, size)
    different = (a.image - b.image).abs()[(a.alpha == 1) & (b.alpha == 1)]
    assert (different > 0.15).sum() < 60  # of 45,000


@pytest.mark.parametrize("fov", [None, 40.0])
def test_only_ambiguous_pixels_take_four_samples(fov, monkeypatch):
    """An unambiguous first ray determines its pixel, and edges still agree."""
    marked, render = [], raycaster._Atlas.render_samples
    monkeypatch.setattr(raycaster._Atlas, "render_samples", lambda *a: (marked.append(len(a[1])), render(*a))[1])
    a, b = both(grids(chair(), chair(leg=3), blob(seed=1), blob(seed=2)), views(4, fov))
    assert 0.01 < sum(marked) / (4 * 128**2) < 0.03
    assert mean_difference(a.alpha, b.alpha) < 0.05


def test_thin_parts_agree_from_all_views():
    """Legs one voxel thick, at angles at which centre rays may miss them."""
    solid = torch.zeros(64, 64, 64)
    solid[20, 4:60, 20] = solid[44, 4:60, 40] = 1
    camera = Camera.orbit(torch.arange(0.0, 360.0, 22.5), 0.0)
    a, b = both(grids(*[solid] * 16), camera)
    assert mean_difference(a.alpha, b.alpha) < 0.02
    assert a.alpha.sum() > 0


@pytest.mark.parametrize(("voxels", "size", "limit"), [(64, 32, 4), (16, 128, 1.5), (48, 100, 1.5), (33, 64, 1.5)])
def test_other_sizes_agree(voxels, size, limit):
    """At 32² a pixel is two voxels wide and has more facets than four samples resolve."""
    scene = grids(blob(voxels, 4), chair(voxels, leg=4))
    a, b = both(scene, views(2), size)
    assert coverage_iou(a.alpha, b.alpha) > 0.995
    assert mean_difference(a.image, b.image) < limit


def test_noise_agrees():
    """Grids like those of an untrained generator, with all cases of marching cubes."""
    noise = (torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    a, b = both(grids(*noise[:, 0]), views(2))
    assert coverage_iou(a.alpha, b.alpha) > 0.99
    assert mean_difference(a.image, b.image) < 8


@pytest.mark.parametrize("fov", [None, 30.0])
@pytest.mark.parametrize("lighting", [None, "unlit"])
def test_meshes_agree(fov, lighting):
    ball = ball_mesh(5)
    camera = views(5, fov)
    background = torch.rand(5, 3, 1, 1).expand(5, 3, 128, 128)
    colored = TriangleMesh(ball.vertices, ball.faces, colors=ball.vertices.clamp(-1, 1) / 2 + 0.5)
    plain = TriangleMesh(ball.vertices, ball.faces)
    for mesh, image_behind in ((ball, background), (colored, background), (plain, background[:, :1])):
        a, b = (
            OpenGLRenderer(128, backend=name, lighting=lighting)(mesh, camera, image_behind)
            for name in ("pyrender", "moderngl")
        )
        inner = both_opaque(a, b)
        assert mean_difference(a.image, b.image) < 0.2
        assert coverage_iou(a.alpha, b.alpha) > 0.999
        assert (a.depth - b.depth)[inner].abs().median() < 1e-3
        assert angles(a.normals, b.normals)[inner].median() < 1


def test_backends_alternate_in_one_process():
    scene, mesh, camera = grids(blob(32), chair(32, leg=2)), ball_mesh(2), views(2)
    renderers = [OpenGLRenderer(64, backend=b) for b in ("pyrender", "moderngl", "pyrender", "moderngl")]
    images = [[r(s, camera).image for s in (scene, mesh)] for _ in range(2) for r in renderers]
    for i in range(2, len(images)):
        for image, first in zip(images[i], images[i % 2], strict=True):
            assert torch.equal(image, first)


def test_voxel_image_without_geometry_is_equal():
    scene, camera = grids(blob(), chair()), views(2)
    a = OpenGLRenderer(64, backend="moderngl")(scene, camera)
    b = OpenGLRenderer(64, backend="moderngl", geometry=False)(scene, camera)
    assert torch.equal(a.image, b.image)
    assert b.normals is None
    assert b.depth is None


@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
@pytest.mark.parametrize("lighting", [None, "unlit"])
def test_mesh_image_without_geometry_is_equal(backend, lighting):
    scene, camera, empty = ball_mesh(3), views(3, 40.0), TriangleMesh(torch.zeros(1, 3, 3), torch.zeros(0, 3).long())
    renderers = [OpenGLRenderer(64, lighting=lighting, backend=backend, geometry=g) for g in (True, False)]
    a, b = (renderer(scene, camera) for renderer in renderers)
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.alpha, b.alpha)
    assert b.normals is None
    assert b.depth is None
    assert renderers[1](empty, camera[:1]).alpha.sum() == 0


def test_driver_is_logged_once(caplog):
    log_renderer.cache_clear()
    with caplog.at_level(logging.INFO):
        log_renderer("moderngl", "llvmpipe")
        log_renderer("moderngl", "llvmpipe")
    assert [r.getMessage() for r in caplog.records] == ["OpenGL (moderngl) renders with llvmpipe"]


def test_cells_match_marching_cubes():
    """Compare the solid part of every cell with that of scikit-image's triangles, by volume."""
    rng = np.random.default_rng(0)
    points = rng.random((600, 3))
    corners = np.array([[b & 1, b >> 1 & 1, b >> 2 & 1] for b in range(8)])
    errors = []
    for code, (operator, planes) in cell_planes().items():
        planes = np.array(planes)
        inside = 2 * points @ planes[:, :3].T <= planes[:, 3]
        inside = inside.all(1) if operator == "and" else inside.any(1)
        if code in (0, 255):
            assert inside.all() == inside.any() == (code == 255)
            continue
        grid = np.array([code >> b & 1 for b in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(grid, 0.5)
        solid = _inside(points, vertices[:, ::-1][faces], corners, code, rng)
        errors.append((inside != solid).mean())
    errors = np.array(errors)
    assert len(errors) == 254
    assert (errors == 0).sum() >= 150
    assert (errors < 0.05).sum() >= 170
    assert errors.max() < 0.3
    assert errors.mean() < 0.06


def _inside(points, triangles, corners, code, rng):
    """Return whether points are in the solid, by the parity of surface crossings toward five corners, majority vote."""
    votes = np.zeros(len(points))
    for k in (0, 3, 5, 6, 7):
        direction = corners[k] + (0.5 - corners[k]) * 1e-3 * rng.random(3) - points
        crossings = np.zeros(len(points), int)
        for a, b, c in triangles:
            normal = np.cross(b - a, c - a)
            with np.errstate(all="ignore"):
                s = ((a - points) @ normal) / (direction @ normal)
            at = points + s[:, None] * direction
            hit = (s > 0) & (s < 1)
            for p, q in ((a, b), (b, c), (c, a)):
                hit &= np.cross(q - p, at - p) @ normal >= 0
            crossings += hit
        votes += ((crossings % 2) ^ (code >> k & 1)) * 2 - 1
    return votes > 0


def test_surface_is_in_the_hull_of_its_points():
    """The surface of each code is in the convex hull of ``surface_points``, tested along random directions."""
    rng = np.random.default_rng(0)
    points, distances = surface_points(False)
    directions = rng.normal(size=(3, 50))
    for code, (operator, planes) in cell_planes().items():
        if code in (0, 255):
            assert np.isinf(distances[:, code]).all()
            continue
        hull = points[distances[:, code] == 0] @ directions
        normals, d = np.array(planes, float)[:, :3], np.array(planes)[:, 3] / 2
        for i in range(len(planes)):
            on = rng.random((500, 3))
            on -= ((on @ normals[i] - d[i]) / (normals[i] @ normals[i]))[:, None] * normals[i]
            others = np.arange(len(planes)) != i
            within = on @ normals[others].T <= d[others] if operator == "and" else on @ normals[others].T >= d[others]
            on = on[((on >= 0) & (on <= 1)).all(1) & within.all(1)] @ directions
            assert (on <= hull.max(0) + 1e-6).all() and (on >= hull.min(0) - 1e-6).all()
    assert (surface_points(True)[1][:8, 1:255] == 0).all()


@pytest.mark.parametrize("size", [3, 8, 13, 30, 31, 64])
@pytest.mark.parametrize("cubes", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_packed_codes(size, cubes, dtype):
    rng = np.random.default_rng(size)
    culler = RayCuller(size, 2, 32, cubes)
    solid = rng.random((2, size, size, size)) < np.array([0.02, 0.5])[:, None, None, None]
    for _ in range(2):  # the second call reuses the buffers
        culler.cull(solid.astype(dtype), 0.5, views(2))
        _, depth, _, across = culler.codes.shape
        padded = np.zeros((2, depth + 1, depth + 1, across + 1), np.uint8)
        padded[:, 1 : size + 1, 1 : size + 1, 1 : size + 1] = solid
        expected = sum(
            padded[:, dz : depth + dz, dy : depth + dy, dx : across + dx] << (dx + 2 * dy + 4 * dz)
            for dx in (0, 1)
            for dy in (0, 1)
            for dz in (0, 1)
        )
        assert (culler.codes == (255 * padded[:, :-1, :-1, :-1] if cubes else expected)).all()


def test_values_are_checked_while_grids_are_packed():
    culler = RayCuller(5, 1, 16)
    grid = np.zeros((1, 5, 5, 5), np.float32)
    for value, in_range in ((0.0, True), (1.0, True), (1.0005, True), (1.01, False), (-0.1, False), (np.nan, False)):
        grid[0, 1, 2, 3] = value
        assert culler.cull(grid, 0.5, views(1))[1] == in_range
    for value in (-0.0, -5e-4, 1.0005):  # within tolerance, also if the exact check runs
        OpenGLRenderer(16, backend="moderngl")(grids(torch.full((5, 5, 5), value)), views(1))
    for value in (float("nan"), float("inf"), -0.1, 1.1):
        with pytest.raises(ValueError, match=r"occupancy \(1, 1, 5, 5, 5\) must be in \[0, 1\]"):
            OpenGLRenderer(16, backend="moderngl")(grids(torch.full((5, 5, 5), value)), views(1))


def test_all_dtypes_and_layouts_give_the_same_image():
    solid = torch.stack([blob(24, 3), chair(24, leg=2)])[:, None]
    camera, renderer = views(2), OpenGLRenderer(40, backend="moderngl")
    expected = renderer(VoxelGrid(solid.float()), camera)
    strided = solid.float().transpose(2, 4).contiguous().transpose(2, 4)  # equal grids, not contiguous
    for grid in (solid.bool(), solid.double(), solid.half(), solid.bfloat16(), strided, solid.float() * 0.4 + 0.3):
        rendering = renderer(VoxelGrid(grid), camera)
        assert torch.equal(rendering.image, expected.image) and torch.equal(rendering.alpha, expected.alpha)


@pytest.mark.parametrize("fov", [None, 1.0, 40.0])
def test_rays_start_in_front_of_all_surface(fov):
    """Points of front-facing surface are in a listed pixel, in a slice with surface, not in front of the ray's start."""
    rng, size = np.random.default_rng(0), 50
    culler, camera = RayCuller(20, 8, size), views(8, fov)
    solid = rng.random((8, 20, 20, 20)) > 0.97
    counts, _ = culler.cull(solid, 0.5, camera)
    ends, tested = np.cumsum(counts), 0
    for i in range(8):
        listed = culler.rays[ends[i] - counts[i] : ends[i]]
        assert (listed[:, 1] == i).all()
        starts = listed.view(np.float32)[:, 3]
        rays = {
            (pixel & 0xFFFF, pixel >> 16): (bits, start)
            for pixel, bits, start in zip(listed[:, 0], listed[:, 2], starts, strict=True)
        }
        assert len(rays) == counts[i]
        points = _front_facing_points(solid[i], camera[i : i + 1], rng)
        x, y, depth = camera[i : i + 1].project(torch.from_numpy(points).float()[None])[0].T.numpy()
        least, per_depth = depth_slices(camera.rotation[i].numpy(), 20.0, camera.distance)
        for column, row, d in zip((x + 1) * size / 2, (1 - y) * size / 2, depth, strict=True):
            if max(abs(column % 1 - 0.5), abs(row % 1 - 0.5)) > 0.375 or not (0 < column < size and 0 < row < size):
                continue  # samples are not farther from the pixel's centre
            bits, start = rays[int(column), int(row)]
            assert start <= d
            assert bits >> int((d - least) * per_depth) & 1
            tested += 1
    assert tested > 1000


def _front_facing_points(solid, camera, rng):
    """Return world points ``(N, 3)`` on the front-facing triangles of a 20³ grid."""
    vertices, faces, _, _ = marching_cubes(np.pad(solid, 1).astype(np.float32), 0.5)
    corners = (vertices[:, ::-1][faces] - 0.5) / 20 - 0.5
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    toward = camera.rotation[0, 2].numpy()
    weights = rng.dirichlet((1, 1, 1), len(corners))
    points = (corners * weights[..., None]).sum(1)
    facing = outward @ toward
    if camera.fov is not None:
        facing = (outward * (toward * camera.distance - points)).sum(1)
    return points[facing > 0]


@pytest.mark.parametrize("fov", [None, 10.0, 90.0])
def test_nothing_is_rendered_outside_a_full_grid(fov):
    a, b = both(grids(torch.ones(21, 21, 21), torch.ones(21, 21, 21)), views(2, fov, seed=3))
    assert mean_difference(a.alpha, b.alpha) < 0.02
    assert (b.depth[b.alpha > 0] < 100).all()


@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
@pytest.mark.parametrize("fov", [None, 10.0, 40.0])
def test_depth_at_edges_is_within_the_mesh(backend, fov):
    """If a triangle misses a pixel's centre, extrapolated depth must not leave the mesh, and is not NaN."""
    ball = ball_mesh(3)  # 0.6 about a centre 0.27 from the origin
    camera = views(3, fov)
    rendering = OpenGLRenderer(64, backend=backend)(ball, camera)
    depth = rendering.depth[rendering.alpha > 0]
    assert not rendering.depth.isnan().any()
    assert camera.distance - 0.9 < depth.min() and depth.max() < camera.distance + 0.9


SCRIPT = """
import torch
from renderers import Camera, OpenGLRenderer, VoxelGrid
OpenGLRenderer(16, backend={backend!r})(VoxelGrid(torch.ones(1, 1, 8, 8, 8)), Camera.orbit(0.0, 0.0))
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
"""


@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
def test_an_optimizer_after_the_first_render(backend):
    """It loads Triton, whose LLVM ended the process once Mesa's was loaded."""
    subprocess.run([sys.executable, "-c", SCRIPT.format(backend=backend)], check=True)
