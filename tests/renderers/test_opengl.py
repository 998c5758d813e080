"""Both OpenGL backends against closed forms, silhouettes of resampled grids, and an analytic ball."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from solids import angles, ball_colour, ball_mesh, blob, chair, coverage_iou, grids

from renderers import Camera, InputError, Lighting, OpenGLRenderer, TriangleMesh, ViewDistribution, VoxelGrid
from renderers.grid_sampling import resample
from renderers.opengl import moderngl_backend
from renderers.opengl.glsl import load_shader
from renderers.opengl.voxel_raycast.raycaster import MAX_LIGHTS

GOLDEN = Path(__file__).parent / "golden" / "opengl_chair.png"


@pytest.fixture(params=["pyrender", "moderngl"])
def backend(request):
    if request.param == "moderngl":
        pytest.importorskip("moderngl")
    return request.param


def views(n, fov=None, seed=0):
    return ViewDistribution(fov=fov).sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fov", [None, 40.0])
@pytest.mark.parametrize("surface", ["marching_cubes", "cubes"])
def test_silhouettes_match_the_resampled_grid(backend, fov, surface):
    scene, camera = grids(chair(leg=4), blob(seed=1), blob(seed=2), chair(leg=3)), views(4, fov)
    rendering = OpenGLRenderer(128, backend=backend, surface=surface)(scene, camera)
    rotated = (resample(scene.occupancy, camera, 256) > 0.5).float().amax(2)
    rotated = torch.nn.functional.avg_pool2d(rotated, 2)
    # Cubes extend beyond the surface of the interpolated grid.
    assert coverage_iou(rendering.alpha, rotated) > (0.97 if surface == "marching_cubes" else 0.93)


# (azimuth, elevation) and the position (x, y, z) in the camera frame of a voxel in the grid's lower left front corner.
QUARTER_TURNS = [
    ((0, 0), (-0.4375, -0.4375, 0.4375)),
    ((90, 0), (-0.4375, -0.4375, -0.4375)),
    ((180, 0), (0.4375, -0.4375, -0.4375)),
    ((270, 0), (0.4375, -0.4375, 0.4375)),
    ((0, 90), (-0.4375, -0.4375, -0.4375)),
    ((0, -90), (-0.4375, 0.4375, 0.4375)),
]


@pytest.mark.parametrize(("angle", "position"), QUARTER_TURNS)
@pytest.mark.parametrize("surface", ["marching_cubes", "cubes"])
def test_quarter_turns_move_a_voxel_to_the_expected_position(backend, surface, angle, position):
    solid = torch.zeros(8, 8, 8)
    solid[7, 0, 0] = 1  # z front, y low, x left
    out = OpenGLRenderer(64, backend=backend, surface=surface)(grids(solid), Camera.orbit(*angle))
    weight = out.alpha[0, 0] / out.alpha.sum()
    axis = (torch.arange(64) + 0.5) / 32 - 1
    assert (weight * axis).sum() == pytest.approx(position[0], abs=0.01)
    assert -(weight * axis[:, None]).sum() == pytest.approx(position[1], abs=0.01)
    tip = 2 - position[2] - 1 / 16
    assert tip - 1e-3 <= out.depth.min() <= tip + (0.04 if surface == "marching_cubes" else 1e-3)
    # Seen along an axis: a square of side 1/8, or the octahedron's square on its corner.
    assert out.alpha.sum() == pytest.approx(16 if surface == "cubes" else 8, abs=1)


def test_empty_and_full_volumes(backend):
    scene = grids(torch.zeros(16, 16, 16), torch.ones(16, 16, 16), torch.zeros(16, 16, 16))
    out = OpenGLRenderer(32, backend=backend)(scene, Camera.orbit([0.0, 0.0, 30.0], 0.0))
    assert out.alpha[[0, 2]].sum() == 0
    assert torch.isinf(out.depth[[0, 2]]).all()
    assert out.alpha[1].sum() == pytest.approx(16 * 16, rel=0.02)
    inner = out.normals[1, :, 12:20, 12:20]
    assert torch.allclose(inner, torch.tensor([0.0, 0.0, 1.0])[:, None, None], atol=0.01)
    assert out.depth[1, 0, 16, 16] == pytest.approx(1.5, abs=1e-3)
    empty = OpenGLRenderer(32, backend=backend)(scene.__class__(scene.occupancy[:1]), Camera.orbit(0.0, 0.0))
    assert empty.image.abs().max() == 0


def test_items_of_a_batch_larger_than_an_atlas_equal_single_renders(backend, monkeypatch):
    monkeypatch.setattr("renderers.opengl.atlas.MAX_ATLAS", 64)
    solids = [chair(32, leg=2), blob(32), torch.zeros(32, 32, 32), blob(32, 3), chair(32, leg=3)]
    camera, renderer = views(5), OpenGLRenderer(32, backend=backend)
    together = renderer(grids(*solids), camera)
    for i, solid in enumerate(solids):
        alone = renderer(grids(solid), camera[i : i + 1])
        assert torch.allclose(alone.image[0], together.image[i], atol=1e-5)
        assert torch.allclose(alone.alpha[0], together.alpha[i])


def test_batches_larger_than_a_3d_texture(backend):
    solids = [blob(32, seed) for seed in range(70)]
    camera, renderer = views(70), OpenGLRenderer(32, backend=backend, geometry=False)
    together = renderer(grids(*solids), camera)
    last = renderer(grids(solids[-1]), camera[69:])
    assert together.depth is None
    assert torch.allclose(together.image[-1], last.image[0], atol=1e-5)


def test_threshold_background_and_unlit_color(backend):
    solid = blob(32) * 0.3
    camera, background = Camera.orbit(20.0, 10.0), torch.rand(1, 1, 32, 32)
    assert OpenGLRenderer(32, backend=backend)(grids(solid), camera).alpha.sum() == 0
    out = OpenGLRenderer(32, threshold=0.2, lighting="unlit", backend=backend)(grids(solid), camera, background)
    assert torch.allclose(out.image, out.alpha + (1 - out.alpha) * background, atol=1e-6)
    assert set(out.alpha.unique().mul(4).tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0} or torch.allclose(
        out.alpha * 4, (out.alpha * 4).round(), atol=0.02
    )


def test_light_direction(backend):
    solid = torch.zeros(16, 16, 16)
    solid[4:12, 4:12, 4:12] = 1
    lit = Lighting(ambient=0.0, directions=((1.0, 0.0, 0.0),), intensities=(1.0,))
    out = OpenGLRenderer(64, lighting=lit, backend=backend, surface="cubes")(grids(solid), Camera.orbit(45.0, 0.0))
    left, right = out.image[0, 0, 32, 26], out.image[0, 0, 32, 38]
    assert left == 0
    assert right == pytest.approx(2**-0.5, abs=0.01)


def analytic_ball(camera, size, radius=0.6, centre=(0.2, 0.1, -0.15)):
    """Return the mask, normals, depth and colour of the ball of ``ball_mesh``, by intersecting each pixel's ray."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y = axis.expand(size, size), -axis[:, None].expand(size, size)
    e = camera.half_extent
    plane = torch.stack([x, y], -1)
    if camera.fov is None:
        start = torch.cat([plane, torch.full((size, size, 1), camera.distance)], -1)
        ray = torch.tensor([0.0, 0.0, -1.0]).expand(size, size, 3)
    else:
        start = torch.tensor([0.0, 0.0, camera.distance]).expand(size, size, 3)
        ray = torch.cat([plane * e, torch.full((size, size, 1), -1.0)], -1)
    c = camera.rotation[0] @ torch.tensor(centre)
    a, b = (ray * ray).sum(-1), (ray * (start - c)).sum(-1)
    root = b * b - a * (((start - c) ** 2).sum(-1) - radius**2)
    depth = (-b - root.clamp(min=0).sqrt()) / a
    normal = (start + ray * depth[..., None] - c) / radius
    world = normal @ camera.rotation[0]
    u = torch.atan2(world[..., 0], world[..., 2]) / (2 * torch.pi) % 1
    v = world[..., 1].clamp(-1, 1).acos() / torch.pi
    return root > 0, normal.permute(2, 0, 1), depth, ball_colour(u, v)


@pytest.mark.parametrize("fov", [None, 10.0, 60.0])
def test_textured_ball_matches_its_equation(backend, fov):
    camera = Camera.orbit([30.0, 200.0], [20.0, -35.0], fov=fov)
    out = OpenGLRenderer(128, lighting="unlit", backend=backend)(ball_mesh(2), camera)
    for i in range(2):
        hit, normal, depth, colour = analytic_ball(camera[i : i + 1], 128)
        inner = (out.alpha[i, 0] == 1) & hit & (normal[2] > 0.3)
        fine = analytic_ball(camera[i : i + 1], 512)[0].float()
        assert coverage_iou(out.alpha[i, 0], torch.nn.functional.avg_pool2d(fine[None], 4)[0]) > 0.99
        assert (out.depth[i, 0] - depth)[inner].abs().median() < 1e-3
        assert angles(out.normals[i : i + 1], normal[None])[0, 0][inner].median() < 0.5
        assert (out.image[i] - colour).abs().mean(0)[inner].median() < 0.01


def test_both_sides_of_a_mesh_are_rendered_and_lit(backend):
    square = torch.tensor([[[-0.4, -0.3, 0.0], [0.6, -0.3, 0.0], [0.6, 0.1, 0.0], [-0.4, 0.1, 0.0]]])
    mesh = TriangleMesh(square.expand(2, -1, -1), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    out = OpenGLRenderer(64, backend=backend)(mesh, Camera.orbit([0.0, 180.0], 0.0))
    assert out.image.shape == (2, 1, 64, 64)
    assert torch.allclose(out.image[1].sum((-1, -2)), out.image[0].sum((-1, -2)), rtol=0.02)
    inner = out.alpha[0, 0] == 1
    assert torch.allclose(out.normals[0, 2][inner], torch.ones(1), atol=0.01)
    rows, columns = inner.nonzero().unbind(-1)
    assert (columns.min(), columns.max()) == (20, 50)  # x from -0.4 to 0.6
    assert (rows.min(), rows.max()) == (29, 40)  # y from 0.1 down to -0.3


def test_vertex_colors_and_grey_textures(backend):
    ball = ball_mesh(1)
    camera = Camera.orbit(30.0, 20.0)
    colored = TriangleMesh(ball.vertices, ball.faces, colors=ball.vertices.clamp(-1, 1) / 2 + 0.5)
    image = OpenGLRenderer(64, lighting="unlit", backend=backend)(colored, camera)
    world = camera.unproject(_frame_points(image.depth[0, 0])[None])[0].view(64, 64, 3)
    inner = image.alpha[0, 0] == 1
    assert ((image.image[0].permute(1, 2, 0) - (world / 2 + 0.5)).abs()[inner]).median() < 0.01
    grey = TriangleMesh(ball.vertices, ball.faces, ball.uvs, ball.texture[:, 1:2])
    assert OpenGLRenderer(64, lighting="unlit", backend=backend)(grey, camera).image.shape[1] == 3


def _frame_points(depth):
    """Return (x, y, depth) of the pixels of a 64² depth image."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    points = torch.stack([axis.expand(64, 64), -axis[:, None].expand(64, 64), depth], -1)
    return points.reshape(-1, 3).nan_to_num(posinf=0.0)


def test_oversized_items_do_not_cover_their_neighbours(backend):
    ball = ball_mesh(3, radius=0.9, centre=(0.7, 0.0, 0.0))
    out = OpenGLRenderer(32, backend=backend)(ball, Camera.orbit([0.0, 90.0, 180.0], 0.0))
    assert out.alpha[0, 0, :, 0].max() == 0
    assert out.alpha[0, 0, 16, 31] == 1
    assert out.alpha[2, 0, :, 31].max() == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [({"backend": "metal"}, "backend"), ({"surface": "smooth"}, "surface"), ({"lighting": "dark"}, "lighting")],
)
def test_invalid_options_raise(options, name, unchecked):
    with pytest.raises(InputError, match=f"^{name} must be "):
        OpenGLRenderer(16, **options)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 1, 1.5, float("nan")])
def test_thresholds_that_no_full_voxel_exceeds_are_refused(threshold):
    with pytest.raises(InputError, match=r"^threshold must be "):
        OpenGLRenderer(16, threshold=threshold)


@pytest.mark.parametrize("threshold", [0, 0.0, 0.25, 0.999])
def test_binary_grids_look_the_same_at_every_threshold(backend, threshold):
    scene, camera = grids(chair(16)), Camera.orbit(20.0, 10.0)
    expected = OpenGLRenderer(16, backend=backend)(scene, camera)
    assert expected.alpha.max() > 0
    assert torch.equal(OpenGLRenderer(16, threshold, backend=backend)(scene, camera).image, expected.image)


def lights(count: int) -> Lighting:
    return Lighting(0.1, tuple((1.0, float(i), 1.0) for i in range(count)), (0.8 / count,) * count)


def test_moderngl_renders_as_many_lights_as_its_shader_has():
    pytest.importorskip("moderngl")
    assert f"lights[{MAX_LIGHTS}]" in load_shader("renderers.opengl.voxel_raycast", "shade.glsl")
    scene, camera = grids(chair(16)), Camera.orbit(20.0, 10.0)
    a, b = (OpenGLRenderer(32, lighting=lights(8), backend=name)(scene, camera) for name in ("pyrender", "moderngl"))
    assert (a.image - b.image).abs().mean() < 0.01
    with pytest.raises(InputError, match=r"^moderngl renders at most 8 lights, got 9; set backend to pyrender"):
        OpenGLRenderer(32, lighting=lights(9), backend="moderngl")
    OpenGLRenderer(32, lighting=lights(9))


def textured(count: int, size: int = 1) -> TriangleMesh:
    corners = torch.tensor([[[-0.5, -0.5, 0.0], [0.5, -0.5, 0.0], [0.0, 0.5, 0.0]]]).expand(count, 3, 3)
    texture = torch.ones(1, 3, 1, size).expand(count, 3, 1, size)
    return TriangleMesh(corners, torch.tensor([[0, 1, 2]]), torch.zeros(3, 2), texture)


def test_batches_of_more_textures_than_the_driver_has_layers():
    pytest.importorskip("moderngl")
    count = 2049  # one more than llvmpipe's limit, beyond which OpenGL renders black
    renderer = OpenGLRenderer(4, lighting="unlit", backend="moderngl", geometry=False)
    image = renderer(textured(count), Camera.orbit(torch.zeros(count), 0.0)).image
    assert image.sum((1, 2, 3)).min() > 0


def test_sizes_beyond_the_driver_are_refused(backend):
    render = OpenGLRenderer(8, backend=backend)
    with pytest.raises(InputError, match=r"^the size of a texture must be at most [0-9,]+ for OpenGL on this machine"):
        render(textured(1, 2**16 + 1), Camera.orbit(0.0, 0.0))
    with pytest.raises(InputError, match=r"^image_size must be at most [0-9,]+ for OpenGL .*, got 65,537$"):
        OpenGLRenderer(2**16 + 1, backend=backend, geometry=False)(textured(1), Camera.orbit(0.0, 0.0))


def test_the_ray_caster_splits_batches_and_refuses_sizes_beyond_its_textures(monkeypatch):
    pytest.importorskip("moderngl")
    scene, camera, renderer = grids(*[chair(16)] * 6), views(6), OpenGLRenderer(32, backend="moderngl")
    expected = renderer(scene, camera).image
    with moderngl_backend.context() as context:
        monkeypatch.setattr(context.raycaster, "max_height", 64)
        monkeypatch.setattr(context.raycaster, "max_depth", 40)
    assert torch.equal(renderer(scene, camera).image, expected)
    with pytest.raises(InputError, match=r"^image_size must be at most 64 for OpenGL on this machine, got 65$"):
        OpenGLRenderer(65, backend="moderngl")(scene, camera)
    with pytest.raises(InputError, match=r"^the size of a voxel grid must be at most 38 for OpenGL .*, got 39$"):
        renderer(grids(torch.ones(39, 39, 39)), camera[:1])


def test_invalid_meshes_raise(backend):
    renderer, camera = OpenGLRenderer(16, backend=backend), Camera.orbit(0.0, 0.0)
    points, face = torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match="index 3 vertices, got 0 to 3"):
        renderer(TriangleMesh(points, face.clamp(min=0) + torch.tensor([[0, 0, 1]])), camera)
    with pytest.raises(ValueError, match="finite"):
        renderer(TriangleMesh(points * float("nan"), face), camera)
    with pytest.raises(ValueError, match="uvs"):
        renderer(TriangleMesh(points, face, texture=torch.zeros(1, 3, 4, 4)), camera)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        renderer(TriangleMesh(points, face, torch.zeros(3, 2), torch.zeros(1, 4, 4, 4)), camera)
    assert renderer(TriangleMesh(points, face), camera).alpha.sum() == 0  # a degenerate triangle is not visible


def test_golden_image():
    """pyrender's image of a chair. To update it, delete the file, run the test and inspect the new file."""
    scene, camera = grids(chair(), chair(leg=3)), Camera.orbit([35.0, 250.0], [25.0, -20.0])
    image = OpenGLRenderer(128)(scene, camera).image
    pixels = (torch.cat(list(image[:, 0]), 1) * 255).round().byte().numpy()
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(GOLDEN)
        pytest.fail(f"wrote {GOLDEN}: inspect it, then run the test again")
    golden = np.asarray(Image.open(GOLDEN))
    different = int((np.abs(pixels.astype(int) - golden) > 1).sum())
    assert different <= 30, f"{different} pixels differ"


@pytest.mark.skipif(not hasattr(multiprocessing, "get_context"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*")
def test_rendering_in_a_fork_after_use_raises(backend):
    scene, camera = grids(blob(16)), Camera.orbit(0.0, 0.0)
    renderer = OpenGLRenderer(16, backend=backend)
    renderer(scene, camera)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()

    def child():
        try:
            renderer(scene, camera)
            answer.put("rendered")
        except RuntimeError as error:
            answer.put(str(error))

    process = context.Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert "forked after OpenGL" in answer.get()


def test_missing_driver_is_an_input_error(backend, tmp_path):
    code = f"""
import torch
from renderers import *
try:
    OpenGLRenderer(8, backend={backend!r})(VoxelGrid(torch.ones(1, 1, 8, 8, 8)), Camera.orbit(0., 0.))
except InputError as error:
    print("error:", error)
"""
    # Without vendor files, EGL's loader finds no device.
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin",
            "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path),
            "PYTHONPATH": ":".join(p for p in sys.path if p),
        },
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert "error: OpenGL does not work on this machine" in run.stdout, run.stderr
    assert "apt-get install" in run.stdout


def test_other_scenes_raise(backend):
    with pytest.raises(Exception, match="VoxelGrid"):
        OpenGLRenderer(16, backend=backend)(torch.zeros(1), Camera.orbit(0.0, 0.0))
    assert VoxelGrid in OpenGLRenderer.accepts
