import math

import pytest
import torch

from renderers import Camera, ViewDistribution


def direction(camera: Camera) -> torch.Tensor:
    """Direction from the origin to the first camera, a unit vector in the world frame."""
    return camera.rotation[0, 2]


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, (0, 0, 1)), (90, 0, (1, 0, 0)), (180, 0, (0, 0, -1)), (0, 90, (0, 1, 0)), (90, -90, (0, -1, 0))],
)
def test_orbit_directions(azimuth, elevation, expected):
    camera = Camera.orbit(azimuth, elevation)
    assert torch.allclose(direction(camera), torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_rotation_is_proper_and_keeps_up_upward():
    camera = ViewDistribution().sample(100, torch.Generator().manual_seed(0))
    identity = camera.rotation @ camera.rotation.mT
    assert torch.allclose(identity, torch.eye(3).expand(100, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(camera.rotation), torch.ones(100), atol=1e-6)
    x, y, _ = camera.project(torch.tensor([[[0.0, 1.0, 0.0]]]).expand(100, 1, 3)).unbind(-1)
    assert torch.allclose(x, torch.zeros(100, 1), atol=1e-6)
    assert (y > 0).all()


def test_seen_from_the_right_the_front_is_on_the_left():
    front = torch.tensor([[[0.0, 0.0, 0.5]]])
    x, y, depth = Camera.orbit(90.0, 0.0).project(front)[0, 0]
    assert (x.item(), y.item(), depth.item()) == pytest.approx((-0.5, 0, 2), abs=1e-6)


@pytest.mark.parametrize("fov", [10.0, 30.0, 90.0])
def test_unit_ball_touches_the_perspective_frame(fov):
    camera = Camera.orbit(0.0, 0.0, fov)
    assert math.sin(math.radians(fov) / 2) == pytest.approx(1 / camera.distance)
    angle = torch.linspace(0, 2 * math.pi, 20001)
    circle = torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
    assert camera.project(circle[None])[..., 0].max().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("fov", [None, 25.0])
def test_unproject_inverts_project(fov):
    camera = ViewDistribution(fov=fov).sample(7, torch.Generator().manual_seed(1))
    points = torch.rand(7, 11, 3) - 0.5
    assert torch.allclose(camera.unproject(camera.project(points)), points, atol=1e-5)


def test_views_cover_their_ranges_and_are_reproducible():
    views = ViewDistribution((-60.0, 60.0), (15.0, 60.0))
    a = views.sample(2000, torch.Generator().manual_seed(3))
    b = views.sample(2000, torch.Generator().manual_seed(3))
    assert torch.equal(a.azimuth, b.azimuth)
    assert -60 <= a.azimuth.min() < -58 and 58 < a.azimuth.max() <= 60
    assert 15 <= a.elevation.min() < 16 and 59 < a.elevation.max() <= 60


def test_invalid_cameras_raise():
    with pytest.raises(ValueError, match="fov"):
        Camera.orbit(0.0, 0.0, 180.0)
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        Camera(torch.zeros(2), torch.zeros(3))
