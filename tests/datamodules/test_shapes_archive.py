"""Voxel archives: axes, orientation, empty grids and errors, and ModelNet10 itself if it is available."""

import io
import logging
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from voxel_checks import centre_of_mass, solid_of

from datamodules.shapes import VoxelArchive, write_archive
from datamodules.shapes.unusable import warn_first_process
from utils.errors import InputError

MODELNET = Path(__file__).parents[2] / "../shared/data/modelnet10_voxels_32.npz"
NAMES = ["chair", "sofa"]
real = pytest.mark.skipif(not MODELNET.is_file(), reason="ModelNet10 is not available")


def marked(x: int, y: int, z: int, size: int = 8) -> np.ndarray:
    grid = np.zeros((size,) * 3, bool)
    grid[x, y, z] = True
    return grid


def make(path: Path) -> Path:
    """Write an archive with two chairs, an empty grid and a sofa in train, and a chair in test."""
    train = np.stack([marked(1, 2, 3), marked(7, 0, 5), np.zeros((8, 8, 8), bool), marked(1, 2, 3)])
    voxels = {"train": train, "test": marked(4, 4, 4)[None]}
    write_archive(path, voxels, {"train": np.array([0, 0, 0, 1]), "test": np.array([0])}, NAMES)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make(tmp_path_factory.mktemp("archive") / "shapes.npz")


def position(source: VoxelArchive, index: int = 0) -> tuple[int, ...]:
    ((z, y, x),) = np.argwhere(solid_of(source, index))
    return int(x), int(y), int(z)


def test_z_up_is_rotated_to_y_up(archive):
    source = VoxelArchive(archive, "chair")
    assert position(source, 0) == (1, 3, 7 - 2)  # (x, z, -y)
    assert position(source, 1) == (7, 5, 7 - 0)


def test_y_up_is_unchanged(archive):
    assert position(VoxelArchive(archive, "chair", up="y")) == (1, 2, 3)
    assert position(VoxelArchive(archive, "sofa", up="y")) == (1, 2, 3)


def test_quarter_turn_maps_minus_x_to_plus_z(archive):
    # From (1, 3, 5) about the grid's middle: x' = z, z' = 7 - x.
    assert position(VoxelArchive(archive, "sofa")) == (5, 3, 7 - 1)
    assert position(VoxelArchive(archive, "sofa", turns=0)) == (1, 3, 5)


def test_couch_is_a_synonym_of_sofa(archive):
    assert VoxelArchive(archive, "couch").category == "sofa"


def test_empty_grids_are_skipped_and_logged_once(archive, caplog):
    with caplog.at_level(logging.WARNING):
        source = VoxelArchive(archive, "chair", "all")
        assert [s.name for s in source] == ["chair-train-00000", "chair-train-00001", "chair-test-00000"]
    (record,) = caplog.records
    assert "1 of 4 chair grids" in record.getMessage()
    assert str(archive) in record.getMessage()


def test_sizes_and_types(archive):
    source = VoxelArchive(archive, "chair", "test", voxel_size=4)
    occupancy = source[0].voxels.occupancy
    assert occupancy.shape == (1, 1, 4, 4, 4)
    assert str(occupancy.dtype) == "torch.float32"
    assert occupancy.sum() == 1
    assert len(source) == 1
    with pytest.raises(IndexError):
        source[1]


def test_pickling_and_cache_keys(archive, tmp_path):
    source = VoxelArchive(archive, "chair")
    len(source)
    assert len(pickle.dumps(source)) < 2000  # without the grids
    assert position(pickle.loads(pickle.dumps(source)), 1) == position(source, 1)
    others = [
        VoxelArchive(archive, "sofa"),
        VoxelArchive(archive, "chair", "test"),
        VoxelArchive(archive, "chair", up="y"),
        VoxelArchive(archive, "chair", voxel_size=4),
        VoxelArchive(archive, "chair", turns=1),
    ]
    assert len({s.cache_key() for s in [source, *others]}) == 6
    assert source.cache_key() == VoxelArchive(archive, "chair").cache_key()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "char"}, "did you mean chair"),
        ({"category": "zebra"}, "it has chair, sofa"),
        ({"category": "chair", "split": "val"}, "train, test, all"),
        ({"category": "chair", "up": "x"}, "y, z"),
        ({"category": "chair", "path": "/no/shapes.npz"}, "/no/shapes.npz"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_arguments_raise_at_construction(archive, arguments, message):
    with pytest.raises(InputError, match=message):
        VoxelArchive(**{"path": archive, **arguments})


def test_wrong_paths_are_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, message in (
        ("own.npz", f"no such voxel archive: {tmp_path}/own.npz; set path to an .npz file"),
        (".", f"{tmp_path} is a directory; set path to an .npz file"),
    ):
        with pytest.raises(InputError) as error:
            VoxelArchive(path, "chair")
        assert str(error.value) == message


def test_class_without_grids_in_the_split_raises(archive):
    with pytest.raises(InputError, match="no sofa in split 'test'"):
        len(VoxelArchive(archive, "sofa", "test"))


def arrays(archive: Path) -> dict[str, np.ndarray]:
    with np.load(archive) as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxels_test": None}, "no array 'voxels_test'"),
        ({"class_names": None}, "no array 'class_names'"),
        ({"shape": np.array([8, 8])}, "'shape'"),
        ({"shape": np.array([8, 8, 9])}, "cubes"),
        ({"shape": np.array([8192, 8192, 8192])}, "cubes"),
        ({"shape": np.array([16, 16, 16])}, "16³ bits"),
        ({"voxels_train": np.zeros((4, 64), np.int16)}, "voxels_train"),
        ({"labels_train": np.zeros(3, np.uint8)}, "labels_train"),
        ({"labels_train": np.zeros(4, np.float32)}, "labels_train"),
        ({"class_names": np.array([1, 2])}, "class_names"),
        ({"class_names": np.array(["chair", "sofa", "chair"])}, "'class_names' repeats chair"),
        ({"labels_train": np.array([1, 1, 2, 2])}, "values from 1 to 2, but they are indices into .* from 0 to 1"),
        ({"labels_train": np.array([-1, 0, 0, 1])}, "'labels_train' has values from -1 to 1"),
        ({"class_names": np.array(["a", None], object)}, "class_names"),
    ],
)
def test_malformed_archives_raise(archive, tmp_path, change, message):
    content = {k: v for k, v in {**arrays(archive), **change}.items() if v is not None}
    path = tmp_path / "other.npz"
    np.savez_compressed(path, **content)
    with pytest.raises(InputError, match=message) as caught:
        VoxelArchive(path, "chair")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zip_bomb_is_rejected_by_its_declared_size(archive, tmp_path):
    """An array whose header declares far less data than its file has, or far more."""
    for shape, size in [((1, 64), 64_000), ((10**12, 64), 64)]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                content = header.getvalue() + bytes(size) if name == "voxels_train.npy" else source.read(name)
                target.writestr(name, content)
        with pytest.raises(InputError, match="declares"):
            VoxelArchive(path, "chair")


@given(
    cut=st.floats(0, 0.999),
    noise=st.binary(max_size=30),
    at=st.floats(0, 1),
    mode=st.sampled_from(["cut", "overwrite"]),
)
@settings(max_examples=150, deadline=None)
def test_corrupt_files_raise_only_input_errors(archive, tmp_path_factory, cut, noise, at, mode):
    content = archive.read_bytes()
    if mode == "cut":
        content = content[: int(cut * len(content))]
    else:
        start = int(at * len(content))
        content = content[:start] + noise + content[start + len(noise) :]
    path = tmp_path_factory.getbasetemp() / "corrupt.npz"
    path.write_bytes(content)
    try:
        source = VoxelArchive(path, "chair")
        assert all(source[i].voxels.size == source.voxel_size for i in range(len(source)))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("size", [3, 5, 8])
def test_grids_of_any_size_are_read_as_they_were_written(tmp_path, size):
    """Rows of bits are padded to whole bytes."""
    grids = np.random.default_rng(0).random((2, size, size, size)) < 0.5
    labels = np.array([0, 1])
    write_archive(tmp_path / "a.npz", {"train": grids, "test": grids}, {"train": labels, "test": labels}, NAMES)
    shape = VoxelArchive(tmp_path / "a.npz", NAMES[1], up="y")[0]
    assert np.array_equal(shape.voxels.occupancy[0, 0].numpy() > 0.5, grids[1].transpose(2, 1, 0))


@pytest.mark.parametrize("labels", [np.array([0, 2]), np.array([0])])
@pytest.mark.usefixtures("unchecked")
def test_write_archive_checks_labels(tmp_path, labels):
    grids = np.zeros((2, 4, 4, 4), bool)
    with pytest.raises(ValueError, match="labels"):
        write_archive(tmp_path / "a.npz", {"train": grids, "test": grids}, {"train": labels, "test": labels}, NAMES)


# --- ModelNet10 itself ---


@real
@pytest.mark.parametrize(
    ("category", "split", "listed", "empty"),
    [("chair", "train", 889, 0), ("couch", "train", 680, 0), ("bathtub", "all", 156, 5), ("table", "test", 100, 0)],
)
def test_modelnet_counts(category, split, listed, empty):
    assert len(VoxelArchive(MODELNET, category, split)) == listed - empty


@real
@pytest.mark.parametrize("category", ["chair", "sofa", "toilet", "bed"])
def test_modelnet_faces_the_viewer(category):
    """High parts (backs, tanks, headboards) are at the back, centred from left to right."""
    source = VoxelArchive(MODELNET, category)
    upper = np.mean([solid_of(source, i)[:, 18:] for i in range(0, 300, 5)], axis=0)
    assert centre_of_mass(upper, axis=0) < -2
    assert abs(centre_of_mass(upper, axis=2)) < 1.2


@real
@pytest.mark.parametrize("category", ["sofa", "table", "bathtub", "desk"])
def test_modelnet_long_sides_are_along_x(category):
    source = VoxelArchive(MODELNET, category, "test")
    mean = np.mean([solid_of(source, i) for i in range(len(source))], axis=0)
    square = (np.arange(32) - 15.5) ** 2
    assert (mean.sum((0, 1)) * square).sum() > 1.2 * (mean.sum((1, 2)) * square).sum()


def test_shapes_that_are_skipped_are_named_once_for_all_ranks_and_workers(caplog, monkeypatch):
    message = "skipping 1 of 2 shapes"
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    warn_first_process(message)
    assert not caplog.messages
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.shapes.unusable.get_worker_info", lambda: "a worker")
        warn_first_process(message)
        assert not caplog.messages
    warn_first_process(message)
    assert caplog.messages == [message]
