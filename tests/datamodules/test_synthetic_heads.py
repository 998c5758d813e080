"""Procedural heads: variety, seeding, orientation, and agreement of ground truth and image."""

import math

import numpy as np
import pytest
import torch

from datamodules import HeadImages, HeadsDataModule
from datamodules.backgrounds import background
from datamodules.shapes.procedural.heads import Head, _directions, hair_cover, head_meshes, paint, surface
from metrics import measure_depth
from renderers import Camera, OpenGLRenderer, Rendering, TriangleMesh, ViewDistribution
from utils.errors import InputError

VIEWS = ViewDistribution((-45.0, 45.0), (-15.0, 15.0), 10.0)


def heads(size=32, **options) -> HeadImages:
    return HeadImages(size, VIEWS, **options)


def data(**options) -> HeadsDataModule:
    small = {"image_size": 16, "images": 12, "reference_images": 6, "batch_size": 4, "total_kimg": 0.016}
    return HeadsDataModule(**{**small, **options})


def test_image_is_a_function_of_seed_split_and_index():
    first = heads().images([3, 0, 7])
    assert first.shape == (3, 3, 32, 32) and first.dtype == np.uint8
    assert (heads().images([7])[0] == first[2]).all()
    for other in (heads(seed=1), heads(split="test")):
        assert (other.images([7])[0] != first[2]).any()
        assert other.head(7) != heads().head(7)


def test_heads_and_views_vary():
    sampled = [heads().head(i) for i in range(200)]
    assert len({(h.width, h.skin) for h in sampled}) == 200
    for name in ("hair", "beard", "glasses"):
        assert 0 < sum(getattr(h, name) > 0 for h in sampled) < 200
    lightness = [sum(h.skin) / 3 for h in sampled]
    assert min(lightness) < 0.3 and max(lightness) > 0.75
    camera = heads().camera(list(range(200)))
    for angles, limit in ((camera.azimuth, 45), (camera.elevation, 15)):
        assert angles.abs().max() <= limit and angles.std().item() == pytest.approx(2 * limit / math.sqrt(12), rel=0.15)
    assert camera.fov == 10.0


def test_meshes_are_in_the_unit_ball_and_face_outward():
    mesh = head_meshes([heads().head(i) for i in range(6)], 64)
    assert mesh.vertices.norm(dim=-1).max() <= 0.99 + 1e-5
    assert mesh.vertices[..., 1].amax(1).min() > 0.8 and mesh.vertices[..., 1].amin(1).max() < -0.8  # fills the frame
    assert 0 <= mesh.uvs.min() and mesh.uvs.max() <= 1
    a, b, c = mesh.vertices[:, mesh.faces.long()].unbind(2)
    volume = (torch.linalg.cross(a, b) * c).sum((1, 2)) / 6  # positive if faces are counter-clockwise from outside
    assert (volume > 0.3).all()


def test_nose_is_below_and_between_the_painted_eyes():
    theta, phi = _directions(128, 256, corners=False)
    for i in range(12):
        head = heads().head(i)
        points = surface(head, theta, phi)
        tip = points.view(-1, 3)[points[..., 2].argmax()]
        colors = paint(head, theta, phi)
        face = (phi.abs() < 1) & (theta.cos().abs() < 0.2) & (hair_cover(head, theta, phi) < 0.1)
        white = (colors[2] > 0.7) & (colors[0] - colors[2] < 0.08)
        eyes = points[white & face]
        assert len(eyes) > 4
        left, right = eyes[eyes[:, 0] < 0], eyes[eyes[:, 0] > 0]
        assert abs(left[:, 0].mean() + right[:, 0].mean()) < 0.03 and abs(tip[0]) < 0.02
        assert 0.08 < (eyes[:, 1].mean() - tip[1]).item() < 0.4
        assert tip[2] > eyes[:, 2].max() + 0.05


def test_images_follow_the_camera():
    """From the right (+x), the nose points left in the image."""
    mesh = head_meshes([heads().head(1)], 64)
    tip = mesh.vertices[0, mesh.vertices[0, :, 2].argmax()]
    for azimuth, sign in ((40.0, -1), (-40.0, 1)):
        x = Camera.orbit(azimuth, 0.0, 10.0).project(tip.view(1, 1, 3))[0, 0, 0]
        assert sign * x > 0.2


def test_canonical_ground_truth_agrees_with_the_image():
    truth = heads(64).canonical(list(range(6)))
    seen = truth.alpha > 0
    assert torch.equal(torch.isfinite(truth.depth), seen)
    near, far = Camera.orbit(0.0, 0.0, 10.0).distance - 1, Camera.orbit(0.0, 0.0, 10.0).distance + 1
    assert near < truth.depth[seen].min() and truth.depth[seen].max() < far
    assert torch.allclose(truth.normals.norm(dim=1, keepdim=True)[seen], torch.ones(()), atol=1e-4)
    assert ((truth.image.amax(1, keepdim=True) > 0) & seen).sum() > 0.95 * seen.sum()
    assert (truth.image.amax(1, keepdim=True)[~seen] > 0).float().mean() < 0.05  # only at edges
    for i in range(6):  # the nearest point is the nose: in the middle column, around the middle rows
        row, column = divmod(int(truth.depth[i, 0].argmin()), 64)
        assert abs(column - 31.5) < 3 and 22 < row < 42
    middle = truth.depth[:, 0, :, 32]
    assert (middle[:, 30] < truth.depth[:, 0, 30, 16]).all()  # faces bulge toward the viewer
    with_background = heads(64).canonical([0], with_background=True)
    assert torch.equal(with_background.depth, truth.depth[:1]) and with_background.image[0, :, 0, 0].sum() > 0
    assert torch.allclose((with_background.image - truth.image[:1])[:, :, 24:36, 24:40], torch.zeros(()), atol=1e-6)


def test_normals_agree_with_the_depth():
    """Compares with finite differences of neighbouring pixels' positions."""
    truth = heads(128).canonical([0])
    axis = (torch.arange(128) + 0.5) * 2 / 128 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    points = torch.stack([x, y, truth.depth[0, 0]], -1).view(1, -1, 3)
    position = Camera.orbit(0.0, 0.0, 10.0).unproject(points).view(128, 128, 3)[48:76, 50:78]
    across, up = position[1:-1, 2:] - position[1:-1, :-2], position[:-2, 1:-1] - position[2:, 1:-1]
    normal = torch.nn.functional.normalize(torch.linalg.cross(across, up), dim=-1)
    cosine = (normal * truth.normals[0].permute(1, 2, 0)[49:75, 51:77]).sum(-1)
    assert cosine.median() > 0.99 and cosine.mean() > 0.95


def test_depth_metrics_of_held_out_heads():
    known, held_out = heads().canonical(list(range(24))), heads(split="test").canonical(list(range(12)))
    figures = measure_depth(held_out, known)
    assert figures["depth_correlation"] > 0.8 and figures["hollow_rate"] == 0
    assert figures["depth_scale"] == pytest.approx(1, abs=0.2)
    assert figures["normal_error"] < 0.6 * figures["normal_error_flat"]
    assert figures["silhouette_iou"] > 0.8
    inside_out = Rendering(held_out.image, held_out.alpha, (23 - held_out.depth).abs(), held_out.normals)
    assert measure_depth(inside_out, known)["hollow_rate"] == 1


def test_backgrounds_vary_and_scale():
    images = torch.stack([background(np.random.default_rng(i), 32) for i in range(40)])
    assert 0 <= images.min() and images.max() <= 1
    assert images.mean((2, 3)).std(0).min() > 0.1
    assert images.std((2, 3)).mean() > 0.05
    large = background(np.random.default_rng(3), 64)
    assert (torch.nn.functional.avg_pool2d(large, 2) - images[3]).abs().mean() < 0.03


def test_data_module_splits_and_is_reproducible():
    module = data()
    module.prepare_data()
    batches = [module.on_after_batch_transfer(b, 0) for b in module.train_dataloader()]
    assert len(batches) == module.steps == 4
    assert batches[0][0].shape == (4, 3, 16, 16) and batches[0][0].dtype == torch.float32
    assert 0 <= batches[0][0].min() and 0.3 < batches[0][0].max() <= 1
    reference = {p.numpy().tobytes() for p in module.reference()}
    assert len(reference) == 6 and sum(len(b[0]) for b in module.val_dataloader()) == 6
    assert not reference & {p[0].numpy().tobytes() for p in module.train_dataloader().dataset}
    again = data()
    again.prepare_data()
    assert torch.equal(next(iter(again.train_dataloader()))[0], next(iter(module.train_dataloader()))[0])
    keys = {m.reference_key for m in (module, again, data(seed=1), data(image_size=32), data(reference_images=5))}
    assert len(keys) == 4


def test_unlimited_heads_never_repeat():
    module = data(images="unlimited")
    module.prepare_data()
    batches = [b[0] for b in module.train_dataloader()]
    assert len({p.numpy().tobytes() for p in torch.cat(batches)}) == 16
    assert torch.equal(batches[2], [b[0] for b in module.train_dataloader()][2])


def test_invalid_arguments_raise():
    with pytest.raises(InputError, match="image_size of heads must be at least 8"):
        data(image_size=4)
    with pytest.raises(InputError, match="images must be at least 1"):
        data(images=0)


def test_orbiting_the_camera_equals_rotating_the_head():
    """Lighting is baked into the texture and so rotates with the head."""
    mesh = head_meshes([Head.sample(np.random.default_rng(5))], 64)
    turn = Camera.orbit(30.0, 0.0, 10.0)
    moved = TriangleMesh(mesh.vertices @ turn.rotation[0].T, mesh.faces, mesh.uvs, mesh.texture)
    renderer = OpenGLRenderer(48, lighting="unlit", backend="moderngl")
    difference = renderer(mesh, turn).image - renderer(moved, Camera.orbit(0.0, 0.0, 10.0)).image
    assert difference.abs().mean() < 2e-3
