"""Folders of mesh and binvox files: which are read, how they are turned, and how they are split."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import trimesh
from small_meshes import SQUARE, box, write

from datamodules.renders.shapenet import ShapeNetRenderDataModule
from datamodules.shapes import ShapeFolder, write_binvox
from datamodules.shapes.base import in_split
from renderers import OpenGLRenderer, ViewDistribution
from utils.errors import InputError


def l_shape() -> trimesh.Trimesh:
    """A seat with a back at -z and an arm at +x, without symmetry; no face is at a voxel centre of 16³."""
    parts = []
    for extents, at in [
        ((0.8, 0.2, 0.9), (0, 0, 0)),
        ((0.8, 0.6, 0.2), (0, 0.2, -0.35)),
        ((0.2, 0.4, 0.9), (0.3, 0.1, 0)),
    ]:
        part = trimesh.creation.box(extents)
        part.apply_translation(at)
        parts.append(part)
    return trimesh.util.concatenate(parts)


def solid(path: Path, **options) -> np.ndarray:
    shapes = ShapeFolder(path.parent, 16, **options)
    (index,) = [i for i in range(len(shapes)) if shapes.name(i) == path.name]
    return shapes[index].voxels.occupancy[0, 0].numpy() > 0.5


def names(shapes: ShapeFolder) -> list[str]:
    return [shapes.name(i) for i in range(len(shapes))]


def test_z_up_and_quarter_turns(tmp_path):
    mesh = l_shape()
    mesh.export(tmp_path / "y.obj")
    expected = solid(tmp_path / "y.obj")
    assert expected[:, :, 12:].sum() > expected[:, :, :4].sum() and expected[:4].sum() > expected[12:].sum()

    x, y, z = mesh.vertices.T
    trimesh.Trimesh(np.stack([x, -z, y], 1), mesh.faces).export(tmp_path / "z.obj")
    assert (solid(tmp_path / "z.obj", up="z") == expected).all()
    trimesh.Trimesh(np.stack([-z, y, x], 1), mesh.faces).export(tmp_path / "left.obj")  # faces -x
    assert (solid(tmp_path / "left.obj", turns=1) == expected).all()
    assert (solid(tmp_path / "left.obj", turns=-3) == expected).all()


def test_binvox_files_are_those_of_their_meshes(tmp_path):
    l_shape().export(tmp_path / "mesh.obj")
    expected = solid(tmp_path / "mesh.obj")
    write_binvox(tmp_path / "y.binvox", expected)
    write_binvox(tmp_path / "z.BINVOX", expected.transpose(1, 0, 2)[:, ::-1])
    assert np.mean(solid(tmp_path / "y.binvox") ^ expected) < 0.1  # the longest side is scaled to 0.9
    assert (solid(tmp_path / "z.BINVOX", up="z") == solid(tmp_path / "y.binvox")).all()


def test_linked_folders_are_searched_once_and_what_is_left_out_is_said(tmp_path, caplog):
    own, other = tmp_path / "own", tmp_path / "other"
    box().export(write(own / "a" / "box.stl", ""))
    box().export(write(other / "linked.stl", ""))
    write(own / "a" / "notes.txt", "x")
    write(own / "a" / "._box.stl", "x")
    (own / "b").symlink_to(other)
    (own / "c").symlink_to(own / "a")
    (own / "a" / "loop").symlink_to(own)
    assert names(ShapeFolder(own)) == ["a/box.stl", "b/linked.stl"]
    assert "3 files left out" in caplog.text and "._box.stl" in caplog.text and "notes" not in caplog.text


def test_bad_files_are_listed_together_or_left_out(tmp_path, caplog):
    box().export(tmp_path / "good.stl")
    for i in range(10):
        write(tmp_path / f"{i:02}.obj", "")
    write(tmp_path / "cut.binvox", "#binvox 1\ndim 4 4 4\ndata\n")
    write_binvox(tmp_path / "empty.binvox", np.zeros((4, 4, 4), bool))
    (tmp_path / "gone.ply").symlink_to("nowhere.ply")
    cache = tmp_path.with_name("cache")
    data = ShapeNetRenderDataModule(
        ShapeFolder(tmp_path, 8), OpenGLRenderer(8), ViewDistribution(), cache_dir=str(cache)
    )
    with pytest.raises(InputError, match=r"13 of 14 shapes .*00\.obj is empty; .*09\.obj is empty; and 3 more; .*skip"):
        data.caches()[0].prepare()
    shapes = ShapeFolder(tmp_path, 8, on_corrupt="skip")
    assert names(shapes) == ["good.stl"] and shapes[0].voxels.occupancy.shape == (1, 1, 8, 8, 8)
    assert "skipping 13 of 14" in caplog.text
    (tmp_path / "good.stl").unlink()
    with pytest.raises(InputError, match="13 of 13"):
        len(ShapeFolder(tmp_path, 8, on_corrupt="skip"))


def test_splits_are_disjoint_complete_and_never_empty(tmp_path):
    for i in range(11):
        write(tmp_path / f"{i}.obj", SQUARE + "f 1 2 3 4\n")
    every, train, test = (set(names(ShapeFolder(tmp_path, split=split))) for split in ("all", "train", "test"))
    assert len(every) == 11 and len(test) == 2 and train | test == every and not train & test
    for split in ("train", "test"):
        assert {len(ShapeFolder(tmp_path, split=split, test_fraction=share)) for share in (0.01, 0.99)} == {1, 10}
    for path in list(tmp_path.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="has only one usable file, so none can be kept for evaluation"):
        len(ShapeFolder(tmp_path, split="train"))


def test_cache_key_and_pickle(tmp_path):
    for name in ("a.stl", "b.stl"):
        box().export(tmp_path / name)
    shapes = ShapeFolder(tmp_path, 8)
    others = [
        ShapeFolder(tmp_path, 16),
        ShapeFolder(tmp_path, 8, up="z"),
        ShapeFolder(tmp_path, 8, turns=1),
        ShapeFolder(tmp_path, 8, split="test"),
    ]
    assert len({shapes.cache_key(), *(other.cache_key() for other in others)}) == 5
    copy = pickle.loads(pickle.dumps(shapes))
    assert copy.cache_key() == shapes.cache_key() and names(copy) == ["a.stl", "b.stl"]
    before = shapes.cache_key()
    l_shape().export(tmp_path / "b.stl")
    assert ShapeFolder(tmp_path, 8).cache_key() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "nowhere"}, "no such folder: .*nowhere; set root"),
        ({"root": "."}, "has no mesh or binvox files"),
        ({"test_fraction": 1}, "test_fraction must be"),
        ({"voxel_size": 1}, "voxel_size must be"),
    ],
)
def test_bad_arguments_are_named(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        len(ShapeFolder(**({"root": tmp_path} | options)))


@pytest.mark.parametrize("text", ["v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"])
def test_meshes_without_area_are_refused(tmp_path, text):
    path = write(tmp_path / "flat.obj", text)
    with pytest.raises(InputError, match=r"flat\.obj has only triangles without extent") as caught:
        ShapeFolder(tmp_path, 8)[0]
    assert str(path) in str(caught.value)


def test_links_to_themselves_and_filesin_other_encodings(tmp_path):
    files = [os.fsdecode(b"caf\xe9.obj"), "a.obj", "b.obj"]
    for name in files:
        write(tmp_path / name, SQUARE + "f 1 2 3 4\n")
    parts = [names(ShapeFolder(tmp_path, 8, split=split)) for split in ("train", "test")]
    assert sorted([*parts[0], *parts[1]]) == sorted(files)
    assert [in_split(files[0], split, 0.5) for split in ("train", "test")].count(True) == 1
    (tmp_path / "loop.obj").symlink_to("loop.obj")
    shapes = ShapeFolder(tmp_path, 8)
    assert shapes.cache_key()
    with pytest.raises(InputError, match=r"loop\.obj"):
        shapes[names(shapes).index("loop.obj")]
    assert len(ShapeFolder(tmp_path, 8, on_corrupt="skip")) == 3


def test_the_buffers_of_gltf_files_are_part_of_the_cache_key(tmp_path):
    mesh = l_shape()
    for name, content in trimesh.Scene(mesh).export(file_type="gltf").items():
        (tmp_path / name).write_bytes(content)
    l_shape().export(tmp_path / "whole.glb")
    (positions,) = [path for path in tmp_path.glob("*.bin") if path.stat().st_size == 12 * len(mesh.vertices)]
    key = ShapeFolder(tmp_path, 16).cache_key()
    assert ShapeFolder(tmp_path, 16).cache_key() == key
    content = positions.read_bytes()

    positions.unlink()
    assert names(ShapeFolder(tmp_path, 16, on_corrupt="skip")) == ["whole.glb"]
    positions.write_bytes((np.frombuffer(content, np.float32).reshape(-1, 3) * np.float32([1, 0.2, 1])).tobytes())
    flatter = ShapeFolder(tmp_path, 16, on_corrupt="skip")
    assert names(flatter) == ["model.gltf", "whole.glb"]  # the cached failure no longer counts
    assert flatter.cache_key() != key and flatter[0].voxels.occupancy.sum() < flatter[1].voxels.occupancy.sum()
