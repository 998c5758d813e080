"""All renderers agree on silhouettes, depth and normals of the same scenes."""

import pytest
import torch
from solids import angles, ball_mesh, blob, chair, coverage_iou, grids, mean_difference

from renderers import (
    AbsorptionRenderer,
    Camera,
    EmissionAbsorptionRenderer,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    SoftRasterizer,
    TriangleMesh,
    ViewDistribution,
    VisualHullRenderer,
    grid_mesh,
)

SIZE = 128
VOLUME_RENDERERS = [AbsorptionRenderer, LitAbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer]


def views(n: int, fov: float | None, seed: int = 1) -> Camera:
    return ViewDistribution(fov=fov).sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fov", [None, 30.0])
@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
@pytest.mark.parametrize("volume", VOLUME_RENDERERS)
def test_volume_renderers_agree_with_opengl(volume, backend, fov):
    """Compare coverage, for solids that are several voxels thick everywhere.

    Trilinear samples extend half a voxel beyond OpenGL's surface. More samples or a higher density therefore make the
    silhouette wider, not sharper.
    """
    scene, camera = grids(chair(leg=3), blob(), blob(seed=5)), views(3, fov)
    opengl = OpenGLRenderer(SIZE, backend=backend)(scene, camera)
    assert coverage_iou(opengl.alpha, volume(SIZE)(scene, camera).alpha) >= 0.97


def wavy_mesh(batch: int) -> TriangleMesh:
    """Return a wavy grid mesh with self-occlusion, whose front most views see."""
    faces, uvs = grid_mesh(40)
    x, y = 2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]
    z = 0.15 * (4 * x + 1).sin() * (5 * y).cos()
    vertices = torch.stack([0.7 * x, 0.6 * y, z], -1)
    colors = torch.stack([uvs[:, 0], uvs[:, 1], 0.5 + 0 * uvs[:, 0]], -1)
    return TriangleMesh(vertices.expand(batch, -1, -1), faces, colors=colors.expand(batch, -1, -1))


@pytest.mark.parametrize("fov", [None, 10.0, 40.0])
@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
@pytest.mark.parametrize("mesh", ["ball", "grid_mesh"])
def test_crisp_layer_of_the_soft_rasterizer_agrees_with_opengl(mesh, backend, fov):
    scene = ball_mesh(4) if mesh == "ball" else wavy_mesh(4)
    camera = views(4, fov) if mesh == "ball" else Camera.orbit([2.0, 25.0, -35.0, 10.0], [1.0, 15.0, -20.0, 30.0], fov)
    gl = OpenGLRenderer(SIZE, backend=backend, lighting="unlit")(scene, camera)
    crisp = SoftRasterizer(SIZE, margin=0)(scene, camera)
    decided = (gl.alpha - 0.5).abs() > 0.01  # two of OpenGL's four samples do not determine the pixel's centre
    assert coverage_iou((gl.alpha > 0.5) * decided, crisp.alpha * decided) >= 0.99
    inner = (gl.alpha == 1) & (crisp.alpha == 1)
    assert (gl.depth - crisp.depth)[inner].abs().median() < 1e-3
    assert angles(gl.normals, crisp.normals)[inner].median() < 2
    assert mean_difference(gl.image * inner, crisp.image * inner) < 2


@pytest.mark.parametrize("fov", [None, 30.0])
def test_soft_layer_stays_within_the_margin_of_the_silhouette(fov):
    """It fades out within a margin of one pixel outside the triangles."""
    scene, camera = ball_mesh(3), views(3, fov)
    crisp = SoftRasterizer(SIZE, margin=0)(scene, camera).alpha
    soft = SoftRasterizer(SIZE, margin=1)(scene, camera).alpha
    assert (soft >= crisp - 1e-5).all()
    around = torch.nn.functional.max_pool2d(crisp, 5, 1, 2)
    assert (soft * (1 - around)).max() == 0


@pytest.mark.parametrize("fov", [None, 30.0])
@pytest.mark.parametrize("angle", [float("nan"), float("inf")])
@pytest.mark.parametrize("renderer", [*VOLUME_RENDERERS, OpenGLRenderer, SoftRasterizer])
def test_a_camera_without_a_finite_angle_is_refused(renderer, angle, fov):
    scene = wavy_mesh(2) if renderer is SoftRasterizer else grids(blob(8), blob(8))
    for angles_ in (([10.0, angle], 0.0), (0.0, [angle, 10.0])):
        with pytest.raises(ValueError, match="azimuth and elevation of a camera must be finite"):
            renderer(16)(scene, Camera.orbit(*angles_, fov))
