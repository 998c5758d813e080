"""Mesh files with the peculiarities of some exporters and editors, which are read like the plain files."""

import codecs

import numpy as np
import pytest
import trimesh
from gltf_files import Gltf
from small_meshes import CHECKERS, box, png, write

from renderers.mesh_files import read_mesh

SQUARE = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], np.float32)
CORNERS = ("0 0 0", "1 0 0", "0 1 0")
OBJ = "".join(f"v {corner}\n" for corner in CORNERS) + "f 1 2 3\n"
HEADER = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
COLORS = "property float red\nproperty float green\nproperty float blue\n"
FACES = "element face 1\nproperty list uchar int vertex_indices\nend_header\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_backslash_at_the_end_of_a_comment_continues_nothing(tmp_path, end):
    write(tmp_path / "x.mtl", f"  # C:\\models\\{end}newmtl red\nKd 1 0 \\{end}0\n")
    text = f"# C:\\models\\{end}mtllib x.mtl\nusemtl red\n" + OBJ.replace("f 1 2", f"# C:\\{end}f 1 \\{end}2")
    mesh = read_mesh(write(tmp_path / "x.obj", text))
    assert len(mesh.faces) == 1
    np.testing.assert_array_equal(mesh.colors, [[1, 0, 0]] * 3)


def colored(kind: str, colors: list[str]) -> str:
    rows = [f"{corner} {color}\n" for corner, color in zip(CORNERS, colors, strict=True)]
    if kind == "obj":
        return "".join(f"v {row}" for row in rows) + "f 1 2 3\n"
    if kind == "off":
        return "COFF\n3 1 0\n" + "".join(rows) + "3 0 1 2\n"
    return HEADER + COLORS + FACES + "".join(rows) + "3 0 1 2\n"


@pytest.mark.parametrize("kind", ["obj", "off", "ply"])
@pytest.mark.parametrize("colors", [["1.0000001 0.5 0"] * 3, ["255.0 127.5 0.0"] * 3, ["255 127.5 0"] * 3])
def test_range_of_colours_follows_from_their_values(tmp_path, kind, colors):
    mesh = read_mesh(write(tmp_path / f"x.{kind}", colored(kind, colors)))
    np.testing.assert_allclose(mesh.colors, [[1, 0.5, 0]] * 3, atol=1e-6)


def test_black_and_primary_colours_written_as_integers_are_not_nearly_black(tmp_path):
    mesh = read_mesh(write(tmp_path / "x.off", colored("off", ["1 0 0", "0 0 0", "0 1 0"])))
    np.testing.assert_array_equal(sorted(map(tuple, mesh.colors)), [(0, 0, 0), (0, 1, 0), (1, 0, 0)])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("obj", OBJ),
        ("off", "OFF\n3 1 0\n" + "\n".join(CORNERS) + "\n3 0 1 2\n"),
        ("ply", HEADER + FACES + "\n".join(CORNERS) + "\n3 0 1 2\n"),
        ("stl", trimesh.exchange.stl.export_stl_ascii(box())),
    ],
)
def test_byte_order_mark_that_editors_write_is_ignored(tmp_path, kind, text):
    plain = read_mesh(write(tmp_path / f"plain.{kind}", text))
    marked = read_mesh(write(tmp_path / f"marked.{kind}", codecs.BOM_UTF8 + text.encode()))
    np.testing.assert_array_equal(marked.vertices, plain.vertices)
    np.testing.assert_array_equal(marked.faces, plain.faces)


@pytest.mark.parametrize(
    "uri", ["Maps/Check%20A.PNG", "maps\\check%20a.png", "C:\\out\\check%20a.png", "maps/check a.png"]
)
def test_textures_of_gltf_are_found_like_those_of_obj(tmp_path, uri, caplog):
    file = Gltf()
    material = file.material(baseColorTexture={"index": file.texture(png(CHECKERS))})
    file.tree["images"] = [{"uri": uri}]
    attributes = {"TEXCOORD_0": file.accessor(SQUARE[:, :2].copy())}
    file.node(mesh=file.mesh(SQUARE, np.array([(0, 1, 2), (0, 2, 3)]), attributes=attributes, material=material))
    folder = tmp_path if uri.startswith("C:") else tmp_path / "maps"
    folder.mkdir(exist_ok=True)
    write(folder / "check a.png", png(CHECKERS))
    assert read_mesh(file.save(tmp_path / "x.glb")).texture is not None
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["obj", "glb"])
@pytest.mark.parametrize("glows", [False, True])
def test_surfaces_that_glow_are_said_not_to(tmp_path, caplog, kind, glows):
    if kind == "obj":
        write(tmp_path / "x.mtl", f"newmtl a\nKd 0 0 0\nKe 0 {glows:d} 0\n")
        path = write(tmp_path / "x.obj", "mtllib x.mtl\nusemtl a\n" + OBJ)
    else:
        file = Gltf()
        material = file.material((0, 0, 0, 1))
        file.tree["materials"][material]["emissiveFactor"] = [0, int(glows), 0]
        file.node(mesh=file.mesh(SQUARE, np.array([(0, 1, 2)]), material=material))
        path = file.save(tmp_path / "x.glb")
    read_mesh(path)
    assert [("do not glow" in message) for message in caplog.messages] == [True] * glows
