import numpy as np
import pytest
import torch

from datamodules.shapes import ProceduralShapes
from metrics import (
    PackedGrids,
    ShapeReference,
    chamfer_matrix,
    compare_clouds,
    compare_shapes,
    coverage,
    iou_matrix,
    largest_piece,
    mean_pairwise_iou,
    minimum_matching_distance,
    nearest_neighbor_accuracy,
    nearest_training_iou,
    surface_clouds,
)
from metrics.point_clouds import chamfer_reference, rotate_clouds, sample_surface
from metrics.shape_comparison import find_quarter_turn
from renderers import InputError


def chamfer(x: np.ndarray, y: np.ndarray) -> float:
    there = np.mean([min(np.sum((p - q) ** 2) for q in y) for p in x])
    return there + np.mean([min(np.sum((p - q) ** 2) for p in x) for q in y])


def clouds(n: int, points: int = 12, shift: float = 0.0) -> torch.Tensor:
    return torch.rand(n, points, 3, dtype=torch.float64) + shift


def boxes(*sizes: int) -> torch.Tensor:
    solids = torch.zeros(len(sizes), 16, 16, 16, dtype=torch.bool)
    for solid, size in zip(solids, sizes, strict=True):
        solid[2 : 2 + size, 3:9, 4:10] = True
    return solids


def test_chamfer_matches_the_double_loop():
    a, b = clouds(3), clouds(4, 9)
    expected = np.array([[chamfer(x, y) for y in b.numpy()] for x in a.numpy()])
    assert chamfer_matrix(a, b).numpy() == pytest.approx(expected, rel=1e-5)  # in float32
    assert chamfer_reference(a, b).numpy() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(chamfer_matrix(a), chamfer_matrix(a, a))
    assert torch.equal(chamfer_matrix(a).diagonal(), torch.zeros(3, dtype=torch.float64))


def test_chamfer_of_surfaces_matches_the_reference():
    chairs = ProceduralShapes("chair", count=4, voxel_size=32)
    a = surface_clouds(torch.stack([chairs[i].voxels.occupancy[0, 0] > 0.5 for i in range(4)]), 256)
    assert chamfer_matrix(a, a[:3]).numpy() == pytest.approx(chamfer_reference(a, a[:3]).numpy(), rel=1e-5)


def test_coverage_and_mmd_match_brute_force():
    a, b = clouds(6), clouds(5)
    distances = np.array([[chamfer(x, y) for y in b.numpy()] for x in a.numpy()])
    figures = compare_clouds(a, b)
    assert figures["coverage"] == len({int(np.argmin(row)) for row in distances}) / 5
    assert figures["mmd"] == pytest.approx(np.mean([min(distances[:, r]) for r in range(5)]), rel=1e-5)


def test_one_nn_accuracy_matches_brute_force():
    a, b = clouds(7), clouds(5, shift=0.05)
    union = [*a.numpy(), *b.numpy()]
    right = 0
    for i, x in enumerate(union):
        others = [(chamfer(x, y), j) for j, y in enumerate(union) if j != i]
        right += (min(others)[1] < 7) == (i < 7)
    assert compare_clouds(a, b)["one_nn_accuracy"] == right / 12


def test_metrics_of_extreme_cases():
    a = clouds(8)
    far = compare_clouds(a, clouds(8, shift=5))
    assert far["one_nn_accuracy"] == 1
    same = compare_clouds(a, a)
    assert same["coverage"] == 1 and same["mmd"] == 0 and same["one_nn_accuracy"] == 0
    collapsed = compare_clouds(a[:1].repeat(8, 1, 1), a)
    assert collapsed["coverage"] == 1 / 8 and collapsed["mmd"] > 0
    ties = torch.ones(2, 2, dtype=torch.float64)
    assert nearest_neighbor_accuracy(ties, ties, ties) == 0.5
    assert coverage(ties) == 0.5 and minimum_matching_distance(ties) == 1


def test_points_are_on_the_surface_and_depend_on_the_seed():
    solid = boxes(8)
    first, second = surface_clouds(solid, 500), surface_clouds(solid, 500)
    assert torch.equal(first, second)
    assert not torch.equal(first, surface_clouds(solid, 500, seed=1))
    low = torch.tensor([4, 3, 2]) / 16 - 0.5  # (x, y, z) of the box's corner
    high = torch.tensor([10, 9, 10]) / 16 - 0.5
    inside = torch.minimum(first[0] - low, high - first[0])
    assert inside.min() > -1e-6  # marching cubes cuts corners, within half a voxel of a face
    assert inside.amin(1).max() <= 0.5 / 16 + 1e-6


def test_points_are_uniform_by_area():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]], np.float32)
    points = sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 20_000, 0)
    big = points[:, 0] >= 5
    assert big.mean() == pytest.approx(0.75, abs=0.02)
    assert points[~big].mean(0) == pytest.approx([1 / 3, 1 / 3, 0], abs=0.01)
    assert points[big].mean(0) == pytest.approx([6, 1 / 3, 0], abs=0.03)


def test_empty_shapes_are_reported():
    with pytest.raises(InputError, match="1 of 3 shapes are empty, the first has index 1"):
        surface_clouds(boxes(4, 0, 4))
    with pytest.raises(InputError, match="no surface"):
        sample_surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), 5, 0)


def test_nearest_training_shape_matches_brute_force():
    generated, training = torch.rand(5, 7, 7, 7) > 0.5, torch.rand(130, 7, 7, 7) > 0.5
    expected = [[float((g & t).sum() / (g | t).sum()) for t in training] for g in generated]
    iou, index = nearest_training_iou(generated, training)
    assert iou.numpy() == pytest.approx(np.max(expected, 1), rel=1e-6)
    assert index.tolist() == np.argmax(expected, 1).tolist()
    assert nearest_training_iou(training[[7, 2]], training)[1].tolist() == [7, 2]
    packed = nearest_training_iou(generated, PackedGrids.pack(training))
    assert torch.equal(packed[0], iou) and torch.equal(packed[1], index)
    assert nearest_training_iou(torch.zeros(1, 7, 7, 7) > 0, training)[0].item() == 0
    assert iou_matrix(generated, training).numpy() == pytest.approx(np.array(expected), rel=1e-6)


def test_pairwise_iou_by_hand():
    solids = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    solids[0, 0, 0] = True  # two voxels
    solids[1, 0, 0, 0] = True  # one of them
    assert mean_pairwise_iou(solids) == pytest.approx((0.5 + 0 + 0) / 3)
    assert mean_pairwise_iou(solids[:1].repeat(4, 1, 1, 1)) == pytest.approx(1)
    assert mean_pairwise_iou(torch.zeros(2, 2, 2, 2, dtype=torch.bool)) == pytest.approx(1)


def test_largest_piece_by_hand():
    solids = torch.zeros(4, 4, 4, 4, dtype=torch.bool)
    solids[0, :2, :2, :2] = True  # one cube of 8 voxels
    solids[1, :2, :2, :2] = True
    solids[1, 2, 2, 1:3] = True  # two more voxels, which touch the cube along an edge
    solids[2, 0, 0, 0] = solids[2, 1, 1, 1] = True  # touching at a corner
    assert largest_piece(solids).tolist() == pytest.approx([1.0, 0.8, 0.5, 0.0])


class Chairs(ProceduralShapes):
    """Chairs that count how many were read; those in ``empty`` are empty."""

    def __init__(self, count: int = 8, seed: int = 0, empty: tuple[int, ...] = (1,)) -> None:
        super().__init__("chair", count=count, voxel_size=16, seed=seed)
        self.read, self.empty = 0, empty

    def __getitem__(self, index: int):
        self.read += 1
        shape = super().__getitem__(index)
        if index in self.empty:
            shape.voxels.occupancy.zero_()
        return shape


def solids_of(shapes: ProceduralShapes) -> torch.Tensor:
    return torch.stack([shapes[i].voxels.occupancy[0, 0] > 0.5 for i in range(len(shapes))])


def test_compared_shapes_are_aligned_and_empty_ones_excluded():
    chairs = Chairs()
    reference = ShapeReference.measure(chairs, chairs, 6, points=256)
    assert reference.clouds.shape == (6, 256, 3) and len(reference.training) == 8
    figures, quarters = compare_shapes(solids_of(chairs).rot90(1, (1, 3)), reference)
    assert quarters.tolist() == [3] * 7  # the inverse of the rotation
    assert figures["nearest_iou"] == 1 and figures["largest_piece"] == 1 and figures["coverage"] == 1
    clouds = surface_clouds(solids_of(chairs)[[0, 2, 3]].rot90(1, (1, 3)), 256)
    expected = compare_clouds(rotate_clouds(clouds, 270), reference.clouds)
    few, _ = compare_shapes(solids_of(chairs)[:4].rot90(1, (1, 3)), reference)
    assert {name: few[name] for name in expected} == pytest.approx(expected)
    none, quarters = compare_shapes(torch.zeros(3, 16, 16, 16) > 0, reference)
    assert none.keys() == figures.keys() and all(np.isnan(value) for value in none.values()) and not len(quarters)


def test_each_shape_is_rotated_by_its_own_multiple_on_request():
    chairs = ProceduralShapes("chair", count=8, voxel_size=32)
    reference = ShapeReference.measure(chairs, chairs, 8, points=256)
    solids = solids_of(chairs)
    mixed = torch.stack([solid.rot90(k % 4, (0, 2)) for k, solid in enumerate(solids)])
    mixed = torch.cat([mixed[:3], torch.zeros(1, 32, 32, 32).bool(), mixed[3:]])  # an empty one between them
    figures, quarters = compare_shapes(mixed, reference, per_shape=True)
    assert quarters.tolist() == [-k % 4 for k in range(8)]
    assert figures["nearest_iou"] == 1 and figures["coverage"] == 1
    together, _ = compare_shapes(mixed, reference)
    assert together["nearest_iou"] < 1 and together["mmd"] > 2 * figures["mmd"]


def test_grids_of_another_resolution_have_no_iou_with_training_shapes():
    reference = ShapeReference.measure(Chairs(), Chairs(), 3, points=64)
    solids = solids_of(ProceduralShapes("chair", count=3, voxel_size=32))
    assert compare_shapes(solids, reference)[0].keys() == {"coverage", "mmd", "one_nn_accuracy", "largest_piece"}


def test_rotating_clouds_and_grids_agree():
    solids = solids_of(ProceduralShapes("chair", count=8, voxel_size=32))
    clouds = surface_clouds(solids, 512)
    assert [find_quarter_turn(rotate_clouds(clouds, 90 * k), clouds) for k in range(4)] == [0, 3, 2, 1]
    turned = surface_clouds(solids.rot90(1, (1, 3)), 512)
    assert (
        chamfer_matrix(turned, rotate_clouds(clouds, 90)).diagonal().max()
        < 1.2 * chamfer_matrix(surface_clouds(solids, 512, seed=1), clouds).diagonal().max()
    )


def test_reference_is_read_once_and_cached(tmp_path):
    held_out, training = Chairs(), Chairs(20, seed=1)
    first = ShapeReference.measure(held_out, training, 4, points=64, training_limit=5, cache_dir=tmp_path)
    assert (held_out.read, training.read) == (5, 5)
    again = ShapeReference.measure(held_out, training, 4, points=64, training_limit=5, cache_dir=tmp_path)
    assert (held_out.read, training.read) == (5, 5)
    assert torch.equal(first.clouds, again.clouds) and torch.equal(first.training.bits, again.training.bits)
    assert torch.equal(again.training[:][:1], solids_of(training)[:1])
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"broken")
    ShapeReference.measure(held_out, training, 4, points=64, training_limit=5, cache_dir=tmp_path)
    ShapeReference.measure(held_out, training, 4, points=64, training_limit=6, cache_dir=tmp_path)
    assert (held_out.read, len(list(tmp_path.iterdir()))) == (15, 2)


def test_only_empty_held_out_shapes_are_rejected():
    chairs = Chairs(2, empty=(0, 1))
    with pytest.raises(InputError, match="all held-out shapes are empty"):
        ShapeReference.measure(chairs, chairs, 4)
