"""Procedural shapes: reproducibility, connectivity at every size, variety, and orientation."""

import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from voxel_checks import centre_of_mass, solid_of

from datamodules.shapes import ProceduralShapes
from datamodules.shapes.procedural.primitives import OrientedBox, Sweep, block, box, rasterize, ring, strut
from datamodules.shapes.processing.connected_components import count_components
from utils.errors import InputError

CATEGORIES = ("chair", "couch", "bathtub", "table", "cubes")


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize(("size", "count"), [(16, 40), (32, 60), (64, 15)])
def test_every_shape_is_connected_solid_and_fills_the_cube_inside_its_border(category, size, count):
    source = ProceduralShapes(category, count=count, voxel_size=size, seed=3)
    for index in range(count):
        solid = solid_of(source, index)
        assert solid.shape == (size,) * 3
        inner = solid[1:-1, 1:-1, 1:-1]
        assert inner.sum() == solid.sum()
        assert ndimage.label(solid)[1] == 1
        assert ndimage.label(~solid)[1] == 1  # no closed cavity
        extent = max(np.ptp(axis) + 1 for axis in np.nonzero(solid))
        assert 0.65 * size <= extent <= min(0.95 * size + 1, size - 2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_shape_is_a_function_of_seed_split_and_index(category):
    source = ProceduralShapes(category, count=6, voxel_size=32)
    twin = pickle.loads(pickle.dumps(source))
    assert all(torch.equal(a.voxels.occupancy, b.voxels.occupancy) for a, b in zip(source, twin, strict=True))
    assert [s.name for s in source] == [source.name(i) for i in range(6)]
    everything = list(ProceduralShapes(category, count=6, voxel_size=32, split="all"))
    other = [*ProceduralShapes(category, count=6, voxel_size=32, split="test")]
    assert len(everything) == 12
    for a, b in zip(everything, [*source, *other], strict=True):
        assert a.name == b.name
        assert torch.equal(a.voxels.occupancy, b.voxels.occupancy)
    reseeded = ProceduralShapes(category, count=6, voxel_size=32, seed=1)
    shapes = {s.voxels.occupancy.numpy().tobytes() for s in [*everything, *reseeded]}
    assert len(shapes) == 18


@pytest.mark.parametrize("category", CATEGORIES)
def test_shape_is_consistent_across_voxel_sizes(category):
    coarse = ProceduralShapes(category, voxel_size=32)
    fine = ProceduralShapes(category, voxel_size=64)
    for index in range(5):
        pooled = solid_of(fine, index).reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
        a, b = solid_of(coarse, index), pooled > 0
        # Thin parts are up to a voxel thicker on the coarse grid; no part deviates more.
        assert not (a & ~ndimage.binary_dilation(b, np.ones((3, 3, 3)), 2)).any()
        assert not ((pooled == 1) & ~ndimage.binary_dilation(a, np.ones((3, 3, 3)), 2)).any()


def test_cache_keys_differ_between_sources():
    sources = [
        ProceduralShapes("chair"),
        ProceduralShapes("table"),
        ProceduralShapes("chair", count=9),
        ProceduralShapes("chair", voxel_size=32),
        ProceduralShapes("chair", seed=1),
        ProceduralShapes("chair", split="test"),
    ]
    assert len({s.cache_key() for s in sources}) == len(sources)
    assert sources[0].cache_key() == ProceduralShapes("chair").cache_key()


@pytest.mark.parametrize("category", ["chair", "couch"])
def test_seats_face_the_viewer(category):
    """Parts above the middle (the back) are at -z on average, and left mirrors right."""
    source = ProceduralShapes(category, voxel_size=32)
    upper = np.mean([solid_of(source, i)[:, 20:] for i in range(60)], axis=0)
    assert centre_of_mass(upper, axis=0) < -2
    assert abs(centre_of_mass(upper, axis=2)) < 1


def test_bathtubs_are_concave_from_above():
    """In the middle column, the highest voxel is the floor, which is lower than the walls."""
    source = ProceduralShapes("bathtub", voxel_size=32)
    for index in range(40):
        solid = solid_of(source, index)
        top = np.flatnonzero(solid.any((0, 2)))[-1]
        low, high = (f(np.argwhere(solid), axis=0) for f in (np.min, np.max))
        middle = solid[(low[0] + high[0]) // 2, :, (low[2] + high[2]) // 2]
        assert middle.any()  # a floor
        assert np.flatnonzero(middle)[-1] <= top - 2


def test_tables_are_widest_on_top():
    source = ProceduralShapes("table", voxel_size=32)
    for index in range(30):
        layers = solid_of(source, index).sum((0, 2))
        upper = np.flatnonzero(layers)[-1]
        assert layers[upper - 1 : upper + 1].max() >= 0.9 * layers.max()


def test_shapes_vary():
    """The mean pairwise IoU of chairs is between that of identical shapes and that of noise."""
    chairs = np.stack([solid_of(ProceduralShapes("chair", voxel_size=32), i).ravel() for i in range(30)]).astype(
        np.float32
    )
    both = chairs @ chairs.T
    counts = np.diag(both)
    iou = both / (counts[:, None] + counts - both)
    assert 0.03 < iou[np.triu_indices(30, 1)].mean() < 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "chairs"}, "chair, couch"),
        ({"category": "chair", "split": "val"}, "train, test"),
        ({"category": "chair", "voxel_size": 8}, "voxel_size"),
        ({"category": "chair", "count": 0}, "count"),
        ({"category": "chair", "seed": -1}, "seed"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        ProceduralShapes(**arguments)


def test_index_out_of_range_raises():
    source = ProceduralShapes("chair", count=2, voxel_size=16)
    for index in (2, -1):
        with pytest.raises(IndexError):
            source[index]


# --- primitives, compared with their equations at every voxel ---


def centres(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = np.indices((size,) * 3).astype(float)
    return x, y, z


def test_sweeps_agree_with_their_equations():
    x, y, z = centres(24)
    cases = [
        (box((11, 12, 10), (5.2, 3.3, 7.1)), (abs(x - 11) <= 5.2) & (abs(y - 12) <= 3.3) & (abs(z - 10) <= 7.1)),
        (
            block((11, 12, 10), (5.2, 8.3, 7.1), 2, 2),
            ((x - 11) / 5.2) ** 2 + ((y - 12) / 8.3) ** 2 + ((z - 10) / 7.1) ** 2 <= 1,
        ),
        (
            block((11, 12, 10), (5.2, 6.3, 7.1), 4, axis=2),
            (((x - 11) / 5.2) ** 4 + ((y - 12) / 6.3) ** 4 <= 1) & (abs(z - 10) <= 7.1),
        ),
        (
            strut((4, 3, 11), (18, 8, 9), 2.2, 3.1),
            (np.maximum(abs(y - 3 - 5 * (x - 4) / 14), abs(z - 11 + 2 * (x - 4) / 14)) <= 2.2 + 0.9 * (x - 4) / 14)
            & (x >= 4)
            & (x <= 18),
        ),
    ]
    for part, expected in cases:
        canvas = np.zeros((24,) * 3, bool)
        part.paint(canvas)
        np.testing.assert_array_equal(canvas, expected)


def test_strut_does_not_depend_on_its_direction():
    grids = []
    for part in (strut((4, 20, 11), (8, 2, 9), 1.2, 2.5), strut((8, 2, 9), (4, 20, 11), 2.5, 1.2)):
        canvas = np.zeros((24,) * 3, bool)
        part.paint(canvas)
        grids.append(canvas)
    assert grids[0].sum() > 100
    np.testing.assert_array_equal(*grids)


def test_oriented_boxes_and_rings_agree_with_their_equations():
    x, y, z = centres(24)
    a = 0.6
    rotation = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    canvas = np.zeros((24,) * 3, bool)
    OrientedBox((11, 12, 10), (6.5, 3.5, 2.5), rotation).paint(canvas)
    u, v = (x - 11) * np.cos(a) - (z - 10) * np.sin(a), (x - 11) * np.sin(a) + (z - 10) * np.cos(a)
    np.testing.assert_array_equal(canvas, (abs(u) <= 6.5) & (abs(v) <= 2.5) & (abs(y - 12) <= 3.5))
    canvas[:] = False
    ring((11, 12, 10), (8, 3, 8), 2.5).paint(canvas)
    r = np.hypot(x - 11, z - 10)
    np.testing.assert_array_equal(canvas, (r <= 8) & (r > 5.5) & (abs(y - 12) <= 3))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_thin_leaning_legs_neither_vanish_nor_break(size):
    rng = np.random.default_rng(0)
    for _ in range(40):
        foot, power = rng.uniform(-0.5, 0.5, 2), float(rng.choice([2.0, np.inf]))
        leg = strut((0, 0, 0), (foot[0], 1, foot[1]), 1e-4, power=power)
        solid = rasterize([leg], size, 0.9)
        assert ndimage.label(solid)[1] == 1
        assert solid.any((0, 2)).sum() >= 0.8 * size


def test_rasterize_centres_and_spans_the_extent():
    solid = rasterize([Sweep((5, 1, 7), (5, 3, 7), (2, 0.5), (2, 0.5))], 40, 0.8)
    spans = [(axis.min(), axis.max()) for axis in np.nonzero(solid)]
    assert [high - low + 1 for low, high in spans] == [8, 16, 32]  # [z, y, x]
    assert all(low + high == 39 for low, high in spans)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 17])
def test_component_counts_agree_with_scipy(size):
    rng = np.random.default_rng(size)
    for density in (0, 0.02, 0.3, 0.5, 0.7, 0.95, 1):
        solid = rng.random((size,) * 3) < density
        assert count_components(solid) == ndimage.label(solid)[1]
        assert count_components(solid.transpose(2, 0, 1)[::-1], False) == ndimage.label(~solid)[1]
