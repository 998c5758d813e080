"""Small ShapeNet folders of both versions: axes, sizes, splits and missing files."""

import errno
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import trimesh
from voxel_checks import iou, solid_of

from datamodules.renders.shapenet import ShapeNetRenderDataModule
from datamodules.shapes import ShapeNetShapes, write_binvox
from datamodules.shapes.processing.voxelize import voxelize
from renderers import OpenGLRenderer, ViewDistribution
from renderers.mesh_files import read_mesh
from utils.errors import InputError

CHAIR = "03001627"


def l_chair() -> trimesh.Trimesh:
    """A chair in our frame, front +z: seat, back at -z, one arm at +x, a leg below; inside [-0.4, 0.4]³."""
    parts = []
    for extents, at in [
        ((0.5, 0.06, 0.5), (0, 0, 0)),
        ((0.5, 0.4, 0.06), (0, 0.2, -0.22)),
        ((0.06, 0.2, 0.5), (0.22, 0.1, 0)),
        ((0.1, 0.4, 0.1), (0, -0.2, 0)),
    ]:
        part = trimesh.creation.box(extents)
        part.apply_translation(at)
        parts.append(part)
    return trimesh.util.concatenate(parts)


def to_file_frame(version: int) -> trimesh.Trimesh:
    """Version 2: front -Z. Version 1: front +X. Both are rotations of ours about y."""
    angle = np.pi if version == 2 else np.pi / 2  # +z goes to -z, or to +x
    mesh = l_chair()
    mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, [0, 1, 0]))
    return mesh


def make_v2(root: Path, names: list[str]) -> None:
    mesh = to_file_frame(2)
    grid = voxelize_at(mesh, 128)
    for name in names:
        models = root / CHAIR / name / "models"
        models.mkdir(parents=True)
        mesh.export(models / "model_normalized.obj")
        write_binvox(models / "model_normalized.solid.binvox", grid, (-0.6, -0.45, -0.5), 1.0)
        write_binvox(models / "model_normalized.surface.binvox", grid, (-0.6, -0.45, -0.5), 1.0)


def voxelize_at(mesh: trimesh.Trimesh, size: int) -> np.ndarray:
    """Voxelize to a grid with its lower corner at (-0.6, -0.45, -0.5); binvox also chooses its own corner."""
    moved = mesh.copy()
    moved.apply_translation((0.1, -0.05, 0.0))
    return voxelize(moved, size)


def make_v1(root: Path, names: list[str]) -> None:
    for name in names:
        (root / CHAIR / name).mkdir(parents=True)
        to_file_frame(1).export(root / CHAIR / name / "model.obj")


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    root = tmp_path_factory.mktemp("ShapeNetCore.v2")
    make_v2(root, [f"model{i:02d}" for i in range(4)])
    return root


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    root = tmp_path_factory.mktemp("ShapeNetCore.v1")
    make_v1(root, ["a", "b"])
    return root


@pytest.mark.parametrize("kind", ["solid", "surface", "obj"])
def test_v2_is_loaded_in_our_frame_and_size(v2, kind):
    solid = solid_of(ShapeNetShapes(v2, "chair", 64, kind, split="all"))
    # Max-pooling from 128³ adds up to a voxel on each side; a wrong axis or mirroring has an IoU below 0.5.
    assert iou(solid, voxelize(l_chair(), 64)) > (0.99 if kind == "obj" else 0.75)


def test_back_arm_and_leg_are_where_they_belong(v2):
    solid = solid_of(ShapeNetShapes(v2, "chair", 64, split="all"))
    assert solid[32 - 14, 44, 32]  # back: [z, y, x] at (0, 0.2, -0.22)
    assert not solid[32 + 14, 44, 32]
    assert solid[32, 38, 32 + 14]  # arm
    assert not solid[32, 38, 32 - 14]
    assert solid[32, 12, 32]  # leg
    assert not solid[32, 52, 32]


def test_v1_equals_v2(v1):
    source = ShapeNetShapes(v1, "chair", 64, "obj", split="all")
    assert source.version == 1
    assert iou(solid_of(source), voxelize(l_chair(), 64)) > 0.99


@pytest.mark.parametrize("kind", ["solid", "obj"])
def test_refit_centres_and_spans_nine_tenths(v2, kind):
    solid = solid_of(ShapeNetShapes(v2, "chair", 64, kind, split="all", refit=True))
    spans = [(axis.min(), axis.max()) for axis in np.nonzero(solid)]
    longest = max(high - low + 1 for low, high in spans)
    assert abs(longest - 0.9 * 64) <= 2
    assert all(abs(low + high - 63) <= 2 for low, high in spans)


def test_unnormalized_binvox_is_refitted(tmp_path, v2):
    models = tmp_path / CHAIR / "big" / "models"
    models.mkdir(parents=True)
    write_binvox(models / "model_normalized.solid.binvox", voxelize_at(to_file_frame(2), 128), (0, 0, 0), 80.0)
    (shape,) = ShapeNetShapes(tmp_path, "chair", 64, split="all")
    expected = solid_of(ShapeNetShapes(v2, "chair", 64, split="all", refit=True))
    np.testing.assert_array_equal(shape.voxels.occupancy[0, 0].numpy() > 0, expected)


@pytest.mark.parametrize("kind", ["solid", "obj"])
@pytest.mark.parametrize(("scale", "kept"), [(0.01, False), (0.45, False), (0.6, True), (1.0, True)])
def test_models_far_below_the_normalized_size_are_refitted(tmp_path, v2, kind, scale, kept):
    """The diagonal of the chair is 1.07."""
    models = tmp_path / CHAIR / "small" / "models"
    models.mkdir(parents=True)
    mesh = to_file_frame(2)
    corner = tuple(scale * x for x in (-0.6, -0.45, -0.5))
    write_binvox(models / "model_normalized.solid.binvox", voxelize_at(mesh, 128), corner, scale)
    mesh.apply_scale(scale)
    mesh.export(models / "model_normalized.obj", digits=12)
    solid = solid_of(ShapeNetShapes(tmp_path, "chair", 64, kind, split="all"))
    span = int(np.ptp(np.nonzero(solid)[1])) + 1  # the height is 0.8
    assert span == pytest.approx((0.8 * scale if kept else 0.9) * 64, abs=2)


@pytest.mark.parametrize("category", ["chair", "Chair", CHAIR])
def test_categories_by_name_and_by_synset(v2, category):
    source = ShapeNetShapes(v2, category, 16, split="all")
    assert [source.name(i) for i in range(len(source))] == ["model00", "model01", "model02", "model03"]


def test_train_and_test_partition_all(tmp_path):
    for i in range(60):
        models = tmp_path / CHAIR / f"m{i:03d}" / "models"
        models.mkdir(parents=True)
        (models / "model_normalized.solid.binvox").touch()
    names = {}
    for split in ("train", "test", "all"):
        source = ShapeNetShapes(tmp_path, "chair", split=split)
        names[split] = [source.name(i) for i in range(len(source))]
    assert sorted(names["train"] + names["test"]) == names["all"]
    assert 3 <= len(names["test"]) <= 25
    (tmp_path / CHAIR / "another" / "models").mkdir(parents=True)
    again = ShapeNetShapes(tmp_path, "chair", split="test")
    assert [again.name(i) for i in range(len(again))] == names["test"]


def test_models_without_the_file_are_skipped_and_logged_once(tmp_path, caplog):
    make_v2(tmp_path, ["a", "b", "c"])
    (tmp_path / CHAIR / "b" / "models" / "model_normalized.solid.binvox").unlink()
    with caplog.at_level(logging.WARNING):
        source = ShapeNetShapes(tmp_path, "chair", 16, split="all")
        assert [s.name for s in source] == ["a", "c"]
        assert len(source) == 2
    (record,) = caplog.records
    assert "1 of 3 models" in record.getMessage()
    assert "model_normalized.solid.binvox" in record.getMessage()


def test_list_restricts_the_models(v2, tmp_path, caplog):
    chosen = tmp_path / "models.txt"
    chosen.write_text("model02\n\nmodel00\nunknown\n")
    source = ShapeNetShapes(v2, "chair", 16, split="all", models=chosen)
    assert [source.name(i) for i in range(len(source))] == ["model00", "model02"]
    assert "1 of 3" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_list_may_begin_with_a_byte_order_mark(v2, tmp_path, caplog, encoding):
    chosen = tmp_path / "models.txt"
    chosen.write_bytes("model00\r\nmodel02\r\n".encode(encoding))
    source = ShapeNetShapes(v2, "chair", 16, split="all", models=chosen)
    assert [source.name(i) for i in range(len(source))] == ["model00", "model02"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lists none of the models in .*03001627; write one model id per line"),
        (b"\n \n", "lists none of the models"),
        (b"unknown\n", "lists none of the models"),
        ("model00".encode("utf-16"), "is not UTF-8 text; write one model id per line"),
    ],
)
def test_unusable_lists_are_named(v2, tmp_path, content, message):
    chosen = tmp_path / "models.txt"
    chosen.write_bytes(content)
    with pytest.raises(InputError, match=f"models.txt {message}"):
        len(ShapeNetShapes(v2, "chair", 16, split="all", models=chosen))


def test_list_without_a_model_of_the_split_is_named(v2, tmp_path):
    chosen = tmp_path / "models.txt"
    chosen.write_text("model00\n")
    with pytest.raises(InputError, match=r"has no chair model listed in .*models\.txt in split 'test'"):
        len(ShapeNetShapes(v2, "chair", 16, split="test", test_fraction=0.0, models=chosen))


def test_unreadable_list_is_named(v2, tmp_path, monkeypatch):
    chosen = tmp_path / "models.txt"
    chosen.write_text("model00\n")
    source = ShapeNetShapes(v2, "chair", 16, split="all", models=chosen)

    def fail(path: Path, **options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(InputError, match=r"models\.txt cannot be read \(Permission denied\)"):
        len(source)


def test_pickling_and_cache_keys(v2):
    source = ShapeNetShapes(v2, "chair", 16, split="all")
    twin = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(solid_of(source), solid_of(twin))
    assert source.cache_key() == twin.cache_key()
    keys = {
        ShapeNetShapes(v2, "chair", **k, split="all").cache_key() for k in ({"voxel_size": 16}, {}, {"kind": "obj"})
    }
    assert len(keys) == 3


def test_changed_file_changes_the_cache_key(tmp_path):
    make_v2(tmp_path, ["a"])
    before = ShapeNetShapes(tmp_path, "chair", 16, split="all").cache_key()
    write_binvox(tmp_path / CHAIR / "a" / "models" / "model_normalized.solid.binvox", np.ones((8, 8, 8), bool))
    assert ShapeNetShapes(tmp_path, "chair", 16, split="all").cache_key() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "chiar"}, "chair"),
        ({"category": "table"}, "03001627 .chair."),
        ({"category": "chair", "kind": "mesh"}, "solid, surface, obj"),
        ({"category": "chair", "split": "val"}, "train, test, all"),
        ({"category": "chair", "test_fraction": 1.5}, "test_fraction"),
        ({"category": "chair", "models": "/no/list.txt"}, "/no/list.txt"),
        ({"category": "chair", "root": "/no/ShapeNet"}, "/no/ShapeNet"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_invalid_arguments_raise_at_construction(v2, arguments, message):
    with pytest.raises(InputError, match=message):
        ShapeNetShapes(**{"root": v2, **arguments})


def test_wrong_paths_are_named_in_full(v2, monkeypatch):
    monkeypatch.chdir(v2)
    for arguments, message in (
        ({"root": "net"}, f"no such folder: {v2}/net; set root to the unpacked ShapeNetCore"),
        ({"models": "ids"}, f"no such list of models: {v2}/ids; set models to a text file of model ids"),
        ({"models": CHAIR}, f"{v2}/{CHAIR} is a directory; set models to a text file of model ids"),
    ):
        with pytest.raises(InputError) as error:
            ShapeNetShapes(**{"root": v2, "category": "chair", **arguments})
        assert str(error.value) == message


def test_empty_categories_and_splits_raise(tmp_path):
    (tmp_path / CHAIR).mkdir()
    with pytest.raises(InputError, match="has no models"):
        ShapeNetShapes(tmp_path, "chair")
    make_v2(tmp_path, ["a"])
    with pytest.raises(InputError, match="no chair model"):
        len(ShapeNetShapes(tmp_path, "chair", split="test", test_fraction=0.0))


@pytest.mark.parametrize(
    "content", [b"", b"v 1 2\nf 1 2 3\n", b"\x00\xff\xfe", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", b"f 1 2 9\n"]
)
def test_corrupt_obj_raises(tmp_path, content):
    (tmp_path / CHAIR / "a").mkdir(parents=True)
    (tmp_path / CHAIR / "a" / "model.obj").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.obj"):
        ShapeNetShapes(tmp_path, "chair", 16, "obj", split="all")[0]


def test_empty_binvox_raises(tmp_path):
    make_v2(tmp_path, ["a"])
    write_binvox(tmp_path / CHAIR / "a" / "models" / "model_normalized.solid.binvox", np.zeros((8, 8, 8), bool))
    with pytest.raises(InputError, match="is empty"):
        ShapeNetShapes(tmp_path, "chair", 16, split="all")[0]


def test_all_unreadable_models_are_named_at_once_or_left_out(tmp_path, caplog):
    make_v1(tmp_path, [f"m{i}" for i in range(6)])
    for name in ("m1", "m4"):
        (tmp_path / CHAIR / name / "model.obj").write_text("mtllib model.mtl\n")
    (tmp_path / CHAIR / "m2" / "model.obj").unlink()
    shapes = ShapeNetShapes(tmp_path, "chair", 8, "obj", split="all")
    data = ShapeNetRenderDataModule(shapes, OpenGLRenderer(8), ViewDistribution(), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(
        InputError, match=r"2 of 5 shapes .*m1/model\.obj has no triangles; .*m4/model\.obj .*on_corrupt"
    ):
        data.caches()[0].prepare()
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        usable = ShapeNetShapes(tmp_path, "chair", 8, "obj", split="all", on_corrupt="skip")
        assert [usable.name(i) for i in range(len(usable))] == ["m0", "m3", "m5"]
        assert "skipping 2 of 5 shapes" in caplog.text and "m4/model.obj" in caplog.text
    assert usable[1].name == "m3"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_models_left_out_by_a_temporary_failure_are_read_again(tmp_path, monkeypatch, error):
    make_v1(tmp_path, ["a", "b", "c"])
    (tmp_path / CHAIR / "c" / "model.obj").write_text("mtllib model.mtl\n")

    def names() -> list[str]:
        shapes = ShapeNetShapes(tmp_path, "chair", 8, "obj", split="all", on_corrupt="skip")
        return [shapes.name(i) for i in range(len(shapes))]

    def failing(path: Path, materials: bool) -> object:
        if path.parent.name == "b":
            raise InputError(f"{path} cannot be read") from error
        return read_mesh(path, materials)

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.shapes.shapenet.read_mesh", failing)
        assert names() == ["a"]
    assert names() == ["a", "b"]


def test_version_1_without_kind_names_both_options(v1):
    with pytest.raises(InputError, match=r"--data\.shapes\.kind=obj --data\.reference_shapes\.kind=obj"):
        ShapeNetShapes(v1, "chair")
