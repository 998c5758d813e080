"""Mesh files that are refused: truncated, contradictory, or unreadable; and what of them is read all the same."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from gltf_files import Gltf
from small_meshes import CHECKERS, SQUARE, UV, box, png, refusal, write

from datamodules.shapes import ShapeFolder
from renderers.mesh_files import read_mesh
from utils.errors import InputError, is_temporary


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.obj", b"", "is empty"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 3\n", "vertex 3 of 2"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 0\n", "an invalid index: 'f 1 2 0'"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", "an invalid index: 'f 1 2 -9'"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 nan\nf 1 2 3\n", "not finite"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nl 1 2\n", "no triangles, only points or lines"),
        ("x.obj", b"v 0 0 0\nv 0 0 0\nv 1 0 0\nf 1 2 3\n", "without extent"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "without extent"),
        ("x.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\nf 2 4", "truncated"),
        ("x.obj", b"cstype bspline\n", "free-form"),
        ("x.obj", "\ufeffv 0 0 0".encode("utf-16-le"), "UTF-16"),
        ("x.off", b"4OFF\n1 0 0\n0 0 0 0\n", "4OFF"),
        ("x.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n4 0 1 2\n", "fewer corners"),
        ("x.off", b"OFF\n3 9 0\n0 0 0\n", "truncated"),
        ("x.off", b"OFF BINARY\n", "binary"),
        ("x.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
                  b"end_header\n0 0 0\n", "point cloud"),
        ("x.ply", b"ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nend_header\n0\n", "truncated"),
        ("x.stl", b"solid x\nfacet\nouter loop\nvertex 0 0 0\nendloop\n", "not triangles, or is truncated"),
        ("x.stl", bytes(80) + b"\x09\0\0\0" + bytes(50), "9 triangles"),
        ("x.glb", b"glTF and no more", "truncated"),
        ("x.gltf", b"{}", "not a glTF 2.0 file"),
        ("x.gltf", b'{"asset": {"version": "1.0"}}', "glTF 1.0"),
        ("x.fbx", b"Kaydara", "unsupported format"),
    ],
)  # fmt: skip
def test_unreadable_files_are_refused_in_one_sentence(tmp_path, name, content, word):
    assert word in refusal(write(tmp_path / name, content))


TRIANGLE = "ply\nformat {} 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
TRIANGLE += "element face {}\nproperty list uchar uchar vertex_indices\nend_header\n"
ASCII = "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
BINARY = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes() + bytes([3, 0, 1, 2])
STL = trimesh.exchange.stl.export_stl(box())
FACETS = trimesh.exchange.stl.export_stl_ascii(box())
OFF = "OFF\n4 1 {}\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n3 0 1 2\n"


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.stl", STL[:80] + b"\x03\0\0\0" + STL[84:], "after the 3 triangles"),
        ("x.stl", STL[:80] + bytes(4) + STL[84:], "after the 0 triangles"),
        ("x.stl", STL * 2, "after the 12 triangles"),
        ("x.stl", "".join(FACETS.partition("endfacet\n")[:2]), "no endsolid"),
        ("x.stl", FACETS + FACETS.replace("endsolid", ""), "no endsolid"),
        ("x.off", OFF.format(0) + "3 1 3 2\n", "more faces than the 1"),
        ("x.off", OFF.format(5) + "3 1 3 2\n", "more faces than the 1"),
        ("x.off", OFF.format(0) * 2, "more faces than the 1"),
        ("x.ply", TRIANGLE.format("ascii", 1) + ASCII + "3 0 2 1\n", "data after the elements"),
        ("x.ply", TRIANGLE.format("ascii", 0) + ASCII, "data after the elements"),
        ("x.ply", TRIANGLE.format("binary_little_endian", 1).encode() + BINARY + BINARY[-4:], "data after the elements"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("end_header", "element face 1\nend_header") + ASCII,
                  "the element 'face' twice"),
    ],
)  # fmt: skip
def test_data_beyond_what_a_file_declares_is_refused(tmp_path, name, content, word):
    assert word in refusal(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("name", "content", "faces"),
    [
        ("x.stl", STL + bytes(200), 12),
        ("x.stl", STL + b"made by", 12),
        ("x.stl", FACETS.replace("endsolid", "END SOLID ") + "\n\n", 12),
        ("x.stl", FACETS + FACETS.replace("0.4", "0.6"), 24),
        ("x.off", OFF.format(2) + "2 0 1\n0 3\n# end\n", 1),
        ("x.off", OFF.format(0) + "made by a test\n", 1),
        ("x.off", OFF.format(0).replace("OFF\n", "OFF") + "\n\0\0", 1),
        ("x.ply", TRIANGLE.format("ascii", 1) + ASCII + "\n \0", 1),
        ("x.ply", TRIANGLE.format("binary_little_endian", 1).encode() + BINARY + b"\n", 1),
    ],
)
def test_padding_comments_and_edges_after_the_data_are_ignored(tmp_path, name, content, faces):
    assert len(read_mesh(write(tmp_path / name, content)).faces) == faces


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.off", OFF.format(0).replace("3 0 1 2", "3 0.7 1.7 2.7"), "has 0.7 where an integer"),
        ("x.off", OFF.format(0).replace("3 0 1 2", "3.5 0 1 2"), "has 3.5 where an integer"),
        ("x.off", OFF.format(0).replace("4 1", "4.5 1"), "has 4.5 where an integer"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("float x", "uchar x") + "300" + ASCII[1:],
                  "has 300 where an integer (uint8)"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("float x", "uint x") + "-1" + ASCII[1:],
                  "has -1 where an integer (uint32)"),
        ("x.ply", TRIANGLE.format("ascii", 1) + ASCII.replace("3 0 1 2", "3 0.7 1 2"), "has 0.7 where an integer (uint8)"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("uchar uchar", "uchar float")
                  + ASCII.replace("3 0 1 2", "3 0.7 1 2"), "has 0.7 where an integer (int64)"),
        ("x.ply", TRIANGLE.format("ascii", 1) + ASCII.replace("3 0 1 2", "3.5 0 1 2"), "a list of 3.5 values"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("list uchar", "list float") + ASCII, "property list float uchar"),
        ("x.ply", TRIANGLE.format("binary_little_endian", 1).replace("list uchar", "list float").encode()
                  + BINARY[:-4] + np.array(np.nan, "<f4").tobytes(), "property list float uchar"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("float x", "list uchar float x") + ASCII, "list uchar float x"),
        ("x.ply", TRIANGLE.format("ascii", 1).replace("float z", "float z\nproperty list uchar float s") + ASCII,
                  "list uchar float s"),
    ],
)  # fmt: skip
def test_numbers_of_the_wrong_type_are_refused(tmp_path, name, content, word):
    assert word in refusal(write(tmp_path / name, content))


def test_integers_may_be_written_as_floats(tmp_path):
    off = OFF.format(0).replace("3 0 1 2", "3.0 0.0 1e0 2.0")
    ply = TRIANGLE.format("ascii", 1).replace("uchar uchar", "uchar float") + ASCII.replace("3 0 1 2", "3.0 0.0 1.0 2")
    for name, content in (("x.off", off), ("x.ply", ply)):
        assert len(read_mesh(write(tmp_path / name, content)).faces) == 1


@pytest.mark.parametrize(
    ("suffix", "red"), [("1 0 0", True), ("1 0 0 0.5", True), ("255 0 0 255", True), ("0 0 0 1", False)]
)
def test_colours_of_obj_vertices_may_have_alpha(tmp_path, suffix, red):
    mesh = read_mesh(write(tmp_path / "x.obj", SQUARE.replace("\n", f" {suffix}\n") + "f 1 2 3 4\n"))
    assert mesh.colors is not None and (mesh.colors == [float(red), 0, 0]).all()


HUGE = 10**400  # JSON has integers of any size


def test_huge_integers_in_gltf_are_refused(tmp_path):
    def path(node: dict, material: dict | None = None, transform: dict | None = None) -> Path:
        file = Gltf()
        attributes = {"TEXCOORD_0": file.accessor(np.zeros((3, 2), np.float32))}
        info = {"index": file.texture(png(CHECKERS)), "extensions": {"KHR_texture_transform": transform or {}}}
        surface = file.material(baseColorTexture=info, **(material or {}))
        target = {"POSITION": file.accessor(np.eye(3, dtype=np.float32))}
        mesh = file.mesh(np.eye(3), None, attributes=attributes, targets=[target], material=surface)
        file.node(mesh=mesh, **node)
        return file.save(tmp_path / "x.glb")

    assert len(read_mesh(path({"weights": [1]}, {"baseColorFactor": [1, 1, 1, 1]}, {"rotation": 1})).faces) == 1
    nodes = [{"scale": [HUGE] * 3}, {"rotation": [HUGE] * 4}, {"translation": [HUGE] * 3}, {"weights": [HUGE]}]
    cases: list[tuple] = [(node,) for node in [*nodes, {"matrix": [HUGE] * 16}]]
    cases += [({}, {"baseColorFactor": [HUGE] * 4})]
    cases += [
        ({}, {}, {name: value}) for name, value in (("rotation", HUGE), ("scale", [HUGE, 1]), ("offset", [HUGE, 1]))
    ]
    for case in cases:
        assert "is not valid glTF" in refusal(path(*case)), case


@pytest.mark.parametrize("value", [None, 3, [1], [{}]])
def test_required_extensions_that_are_not_names_are_refused(tmp_path, value):
    file = Gltf()
    file.node(mesh=file.mesh(box().vertices, box().faces))
    file.save(path := tmp_path / "x.gltf")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "extensionsRequired": value}))
    assert "is not valid glTF" in refusal(path)


def linking(folder: Path, kind: str, name: str) -> Path:
    """A mesh file that refers to the file ``name``."""
    faces = SQUARE + UV.format(1) + "usemtl m\nf 1/1 2/2 3/3 4/4\n"
    if kind == "buffer":
        file = Gltf()
        file.node(mesh=file.mesh(box().vertices, box().faces))
        path = file.save(folder / "x.gltf", external=True)
        if name == "linked":
            (folder / "the data.bin").rename(folder / name)
        return write(path, path.read_text().replace("the%20data.bin", name))
    if kind == "texture of PLY":
        header = TRIANGLE.format("ascii", 1).replace("element vertex", f"comment TextureFile {name}\nelement vertex")
        return write(folder / "x.ply", header + ASCII)
    write(folder / "m.mtl", f"newmtl m\nmap_Kd {name}\n")
    return write(folder / "x.obj", f"mtllib {name if kind == 'material' else 'm.mtl'}\n" + faces)


LINKED = ("buffer", "material", "texture", "texture of PLY")


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("kind", [*LINKED, None])
def test_files_that_the_system_cannot_read_are_named(tmp_path, monkeypatch, kind, code):
    write(tmp_path / "linked", png(CHECKERS))
    path = linking(tmp_path, kind or "texture", "linked")
    name, read = "linked" if kind else path.name, Path.read_bytes

    def fail(file: Path) -> bytes:
        if file.name == name:
            raise OSError(code, os.strerror(code))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(InputError) as caught:
        read_mesh(path)
    assert str(path) in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert os.strerror(code) in str(caught.value) and is_temporary(caught.value)
    if kind is None:
        box().export(tmp_path / "good.stl")
        shapes = ShapeFolder(tmp_path, 8, on_corrupt="skip")
        assert [shapes.name(i) for i in range(len(shapes))] == ["good.stl"]


@pytest.mark.parametrize("kind", LINKED)
@pytest.mark.parametrize("name", ["n" * 300, "n/" * 3000 + "n"])
def test_names_that_are_too_long_are_those_of_missing_files(tmp_path, caplog, kind, name):
    path = linking(tmp_path, kind, name)
    if kind == "buffer":
        assert "nnn, which does not exist" in refusal(path).replace("/", "")
    else:
        assert read_mesh(path).texture is None and "was not found" in caplog.text


def test_textures_in_folders_of_other_users_are_found_beside_the_mesh(tmp_path, monkeypatch):
    write(tmp_path / "linked", png(CHECKERS))
    exists = Path.exists

    def deny(path: Path) -> bool:
        if "private" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", deny)
    assert read_mesh(linking(tmp_path, "texture", "/home/private/linked")).texture is not None


def test_a_line_of_many_material_files_may_be_longer_than_a_name(tmp_path):
    names = [f"{i:0100}.mtl" for i in range(4)]
    for i, name in enumerate(names):
        write(tmp_path / name, f"newmtl m{i}\nKd {i % 2} 0 0\n")
    mesh = read_mesh(write(tmp_path / "x.obj", f"mtllib {' '.join(names)}\n{SQUARE}usemtl m3\nf 1 2 3 4\n"))
    assert mesh.colors is not None and (mesh.colors == [1, 0, 0]).all()


def test_glb_files_whose_declared_length_is_wrong_are_refused(tmp_path):
    file = Gltf()
    file.node(mesh=file.mesh(box().vertices, box().faces))
    path = file.save(tmp_path / "x.glb")
    content = path.read_bytes()
    assert len(read_mesh(write(path, content + b"\n\0")).faces) == 12
    assert "data after the end that its header declares" in refusal(write(path, content + b"more data"))
    short = content[:8] + (len(content) - 20).to_bytes(4, "little") + content[12:]
    assert "truncated" in refusal(write(path, short))


def test_index_out_of_range_in_glb_is_refused(tmp_path):
    file = Gltf()
    faces = box().faces.copy()
    faces[3, 1] = 77
    file.node(mesh=file.mesh(box().vertices, faces))
    assert "vertex 77 of 8" in refusal(file.save(tmp_path / "x.glb"))
