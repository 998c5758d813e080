"""Voxelization of meshes, compared with closed forms, and resampling, compared with max-pooling."""

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from voxel_checks import iou

from datamodules.shapes import fit_to_cube, normalize
from datamodules.shapes.processing.resample import occupied_box, resample
from datamodules.shapes.processing.voxelize import voxelize

SIZE = 40


def centres(size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c = (np.arange(size) + 0.5) / size - 0.5
    z, y, x = np.meshgrid(c, c, c, indexing="ij")
    return x, y, z


def torus() -> tuple[trimesh.Trimesh, np.ndarray]:
    x, y, z = centres()
    mesh = trimesh.creation.torus(0.3, 0.12, major_sections=96, minor_sections=48)
    return mesh, (np.hypot(x, y) - 0.3) ** 2 + z**2 <= 0.12**2


def ball(radius: float = 0.4) -> tuple[trimesh.Trimesh, np.ndarray]:
    x, y, z = centres()
    return trimesh.creation.icosphere(4, radius=radius), x**2 + y**2 + z**2 <= radius**2


def test_box_is_exact_and_its_axes_are_not_swapped():
    x, y, z = centres()
    mesh = trimesh.creation.box((0.8, 0.5, 0.3))
    mesh.apply_translation((0.05, -0.1, 0.2))
    expected = (abs(x - 0.05) < 0.4) & (abs(y + 0.1) < 0.25) & (abs(z - 0.2) < 0.15)
    np.testing.assert_array_equal(voxelize(mesh, SIZE), expected)


@pytest.mark.parametrize("solid", [ball, torus])
def test_round_solids_agree_with_their_equations(solid):
    mesh, expected = solid()
    assert iou(voxelize(mesh, SIZE), expected) > 0.97


def test_agrees_with_trimesh_up_to_its_thicker_surface():
    mesh, _ = torus()
    filled = mesh.voxelized(1 / SIZE).fill()
    x, y, z = centres()
    points = np.stack([x, y, z], -1).reshape(-1, 3)
    theirs = filled.is_filled(points).reshape(x.shape)
    ours = voxelize(mesh, SIZE)
    assert not (ours & ~ndimage.binary_dilation(theirs)).any()
    assert not (ndimage.binary_erosion(theirs, np.ones((3, 3, 3))) & ~ours).any()


def test_flipped_and_duplicated_faces_do_not_matter():
    mesh, expected = ball()
    rng = np.random.default_rng(0)
    faces = mesh.faces.copy()
    flip = rng.random(len(faces)) < 0.5
    faces[flip] = faces[flip][:, ::-1]
    assert iou(voxelize(trimesh.Trimesh(mesh.vertices, faces, process=False), SIZE), expected) > 0.97


def test_shell_with_missing_faces_is_filled():
    mesh, expected = ball()
    keep = np.random.default_rng(0).random(len(mesh.faces)) > 0.02
    mesh.update_faces(keep)
    assert not mesh.is_watertight
    assert iou(voxelize(mesh, SIZE), expected) > 0.97


def test_unmerged_vertices_are_supported():
    mesh, expected = ball()
    soup = trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False)
    assert iou(voxelize(soup, SIZE), expected) > 0.97


def test_overlapping_parts_are_united():
    """With ray parity over all parts together, the overlap would be a hole."""
    x, y, z = centres()
    a, b = trimesh.creation.box((0.6, 0.3, 0.3)), trimesh.creation.box((0.3, 0.6, 0.3))
    b.apply_translation((0.01, 0.01, 0.01))
    solid = voxelize(trimesh.util.concatenate([a, b]), SIZE)
    in_a = (abs(x) < 0.3) & (abs(y) < 0.15) & (abs(z) < 0.15)
    in_b = (abs(x - 0.01) < 0.15) & (abs(y - 0.01) < 0.3) & (abs(z - 0.01) < 0.15)
    np.testing.assert_array_equal(solid, in_a | in_b)


def test_legs_thinner_than_a_voxel_stay_connected_to_the_seat():
    rng = np.random.default_rng(1)
    for _ in range(10):
        x, z = rng.uniform(-0.3, 0.3, 2)
        leg, seat = trimesh.creation.box((0.003, 0.7, 0.003)), trimesh.creation.box((0.8, 0.1, 0.8))
        leg.apply_translation((x, -0.1, z))
        seat.apply_translation((0, 0.25, 0))
        solid = voxelize(trimesh.util.concatenate([leg, seat]), SIZE)
        below = solid[:, : SIZE // 2].any((0, 2))
        assert below[2:].all()
        assert solid[:, : SIZE // 2].sum() <= 2 * SIZE  # but are not inflated
        layers = solid.any((0, 2))
        assert np.ptp(np.flatnonzero(layers)) + 1 == layers.sum()


def test_single_sheet_is_preserved():
    sheet = trimesh.Trimesh(
        [[-0.4, 0.013, -0.4], [0.4, 0.013, -0.4], [0.4, 0.013, 0.4], [-0.4, 0.013, 0.4]], [[0, 1, 2], [0, 2, 3]]
    )
    solid = voxelize(sheet, SIZE)
    assert solid.any((0, 2)).sum() == 1
    assert abs(solid.sum() - (0.8 * SIZE) ** 2) < 4 * SIZE


def test_meshes_are_clipped_and_empty_meshes_are_empty():
    mesh = trimesh.creation.box((3, 0.2, 0.2))
    solid = voxelize(mesh, SIZE)
    assert solid[SIZE // 2, SIZE // 2].all()
    assert not voxelize(trimesh.Trimesh(), SIZE).any()


def test_normalize_centres_and_scales():
    mesh = trimesh.creation.box((4, 2, 1))
    mesh.apply_translation((10, 20, 30))
    low, high = normalize(mesh).bounds
    np.testing.assert_allclose(high, [0.45, 0.225, 0.1125])
    np.testing.assert_allclose(low, -high)
    with pytest.raises(ValueError, match="no extent"):
        normalize(trimesh.Trimesh())


# --- resample ---


def test_halving_is_max_pooling():
    solid = np.random.default_rng(0).random((16, 16, 16)) < 0.1
    pooled = solid.reshape(8, 2, 8, 2, 8, 2).any((1, 3, 5))
    np.testing.assert_array_equal(resample(solid, 8), pooled)


def test_identity_and_doubling_are_exact():
    solid = np.random.default_rng(0).random((8, 8, 8)) < 0.3
    np.testing.assert_array_equal(resample(solid, 8), solid)
    np.testing.assert_array_equal(resample(solid, 16), solid.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_placed_cube_is_at_its_coordinates():
    solid = np.ones((10, 10, 10), bool)
    result = resample(solid, 20, low=(-0.5, -0.25, 0.0), edge=0.25)
    expected = np.zeros((20, 20, 20), bool)
    expected[10:15, 5:10, 0:5] = True  # [z, y, x]
    np.testing.assert_array_equal(result, expected)


def test_source_outside_the_grid_is_clipped():
    assert not resample(np.ones((4, 4, 4), bool), 8, low=(0.6, 0, 0), edge=0.3).any()


def test_fit_to_cube_centres_and_spans():
    solid = np.zeros((50, 50, 50), bool)
    solid[3:13, 20:40, 30:35] = True
    result = fit_to_cube(solid, 40, span=0.9)
    low, high = occupied_box(result)
    assert all(abs(b - a - n) <= 1 for a, b, n in zip(low, high, (9, 36, 18), strict=True))
    assert all(abs(a + b - 40) <= 1 for a, b in zip(low, high, strict=True))
    assert not fit_to_cube(np.zeros((4, 4, 4), bool), 8).any()
