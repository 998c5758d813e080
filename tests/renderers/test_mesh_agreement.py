"""One shape in many files: every format and variant gives the same area, bounds, silhouette and mean colour."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import DracoPy
import numpy as np
import pytest
import torch
from gltf_files import Gltf
from PIL import Image

from renderers import Camera, OpenGLRenderer, TriangleMesh
from renderers.mesh_files.images import to_linear
from trainer.export.scene_io import load_scenes

# An L whose caps are concave, in exact binary fractions.
OUTLINE = np.array([[0, 0], [4, 0], [4, 1], [1, 1], [1, 4], [0, 4]]) / 8 - 0.25
COUNT = len(OUTLINE)
VERTICES = np.concatenate([np.c_[OUTLINE, np.full(COUNT, z)] for z in (-0.125, 0.125)])
POLYGONS = [
    [6, 7, 8, 9, 10, 11],
    [5, 4, 3, 2, 1, 0],
    *([i, (i + 1) % COUNT, (i + 1) % COUNT + COUNT, i + COUNT] for i in range(COUNT)),
]
CAP = [
    [0, 1, 2],
    [0, 2, 3],
    [0, 3, 4],
    [0, 4, 5],
]  # a fan from the inner side of the L, which is valid for this outline
TRIANGLES = np.array(
    [[POLYGONS[k][i] for i in triangle] for k, start in ((0, 0), (1, 5)) for triangle in (np.array(CAP) + start) % 6]
    + [[p[a], p[b], p[c]] for p in POLYGONS[2:] for a, b, c in ((0, 1, 2), (0, 2, 3))]
)
AREA = 2 * 7 / 64 + 16 / 8 * 0.25
COLOR = np.array([200, 100, 40]) / 255  # sRGB


def png(color: np.ndarray = COLOR, size: int = 3) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), (color * 255).round(), np.uint8)).save(file, "PNG")
    return file.getvalue()


def lines(rows: np.ndarray, prefix: str = "", suffix: str = "") -> str:
    return "".join(f"{prefix}{' '.join(f'{x:g}' for x in row)}{suffix}\n" for row in rows)


def obj_faces(index: Callable[[int], str], polygons: list[list[int]] = POLYGONS) -> str:
    return "".join("f " + " ".join(index(i) for i in polygon) + "\n" for polygon in polygons)


V = lines(VERTICES, "v ")
ABSOLUTE = V + obj_faces(lambda i: f"{i + 1}")
TEXTURED = V + "vt 0.25 0.5\nvt 0.75 0.5\n" + obj_faces(lambda i: f"{i + 1}/{i % 2 + 1}")
UV = "vt 0.25 0.5\nvt 0.75 0.5\n"
MATERIAL = "mtllib a b.mtl\nusemtl the material\n"


def obj(text: str | bytes, mtl: str = "") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "x.obj"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "a b.mtl").write_text("newmtl other\nKd 0 0 1\nnewmtl the material\n" + mtl)
        (folder / "textures").mkdir()
        (folder / "textures" / "c d.png").write_bytes(png())
        return path

    return write


def relative_by_block() -> str:
    """Each polygon after its own vertices, with negative indices."""
    return "".join(
        lines(VERTICES[p], "v ") + "f " + " ".join(str(i - len(p)) for i in range(len(p))) + "\n" for p in POLYGONS
    )


def off(header: str = "OFF\n", vertex: str = "", face: str = "") -> Callable[[Path], Path]:
    faces = "".join(f"{len(p)} {' '.join(map(str, p))}{face}\n" for p in POLYGONS)
    text = f"{header}{len(VERTICES)} {len(POLYGONS)} 0\n" + lines(VERTICES, "", vertex) + faces
    return lambda folder: _written(folder / "x.off", text.encode())


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def ply(form: str = "ascii", vertex: str = "", face: str = "", name: str = "vertex_indices", strips: bool = False):
    """A PLY file. ``vertex`` and ``face`` are the type of colours there, or empty."""

    def write(folder: Path) -> Path:
        order = ">" if "big" in form else "<"
        names = ("red", "green", "blue")
        head = f"ply\nformat {form} 1.0\ncomment made by a test\nelement vertex {len(VERTICES)}\n"
        head += "".join(f"property double {axis}\n" for axis in "xyz") + "".join(
            f"property {vertex} {c}\n" for c in names if vertex
        )
        rows = [np.array([t]) for t in TRIANGLES] if strips else POLYGONS
        rows = [np.ravel(row) for row in rows]
        if strips:
            head += "element tristrips 1\nproperty list int int vertex_indices\n"
            rows = [np.concatenate([np.r_[row, -1] for row in rows])[:-1]]
        else:
            head += f"element face {len(rows)}\nproperty list uchar int {name}\n" + "".join(
                f"property {face} {c}\n" for c in names if face
            )
        head += "end_header\n"

        def color(kind: str) -> list:
            return [] if not kind else list(COLOR) if kind == "float" else list((COLOR * 255).round().astype(int))

        if form == "ascii":
            body = "".join(" ".join(map(str, [*map(float, v), *color(vertex)])) + "\n" for v in VERTICES)
            body += "".join(" ".join(map(str, [len(row), *map(int, row), *color(face)])) + "\n" for row in rows)
            return _written(folder / "x.ply", (head + body).encode())
        code = {"": "", "float": "3f", "uchar": "3B"}
        content = b"".join(struct.pack(order + "3d" + code[vertex], *v, *color(vertex)) for v in VERTICES)
        for row in rows:
            content += struct.pack(
                order + ("i" if strips else "B") + f"{len(row)}i" + code[face], len(row), *map(int, row), *color(face)
            )
        return _written(folder / "x.ply", head.encode() + content)

    return write


def stl(binary: bytes | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        triangles = VERTICES[TRIANGLES]
        if binary is None:
            facets = "".join(
                "facet normal 0 0 0\n outer loop\n" + lines(t, "  vertex ") + " endloop\nendfacet\n" for t in triangles
            )
            return _written(folder / "x.stl", f"solid an L\n{facets}endsolid an L\n".encode())
        body = b"".join(struct.pack("<12fH", 0, 0, 0, *t.ravel(), 0) for t in triangles)
        return _written(folder / "x.stl", binary.ljust(80) + struct.pack("<I", len(triangles)) + body)

    return write


def gltf(build: Callable[[Gltf], None], suffix: str = ".glb", external: bool = False) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        file = Gltf()
        build(file)
        return file.save(folder / f"x{suffix}", external)

    return write


def plain(file: Gltf) -> None:
    file.node(mesh=file.mesh(VERTICES, TRIANGLES))


def no_indices(file: Gltf) -> None:
    file.node(mesh=file.mesh(VERTICES[TRIANGLES].reshape(-1, 3), None))


def strips(file: Gltf) -> None:
    for triangle in TRIANGLES:
        file.node(mesh=file.mesh(VERTICES, triangle, mode=5))


def fans(file: Gltf) -> None:
    for polygon in [[*POLYGONS[0]], POLYGONS[1][-1:] + POLYGONS[1][:-1], *POLYGONS[2:]]:
        file.node(mesh=file.mesh(VERTICES, np.array(polygon), mode=6))


def nested(file: Gltf) -> None:
    """Half the size, turned by 90° about x, and turned back and doubled by the parents."""
    inner = VERTICES[:, [0, 2, 1]] * (1, 1, -1) / 2 - (0.25, 0, 0)
    leaf = file.node(root=False, mesh=file.mesh(inner, TRIANGLES), translation=[0.25, 0, 0])
    middle = file.node(root=False, children=[leaf], scale=[2, 2, 2])
    file.node(children=[middle], rotation=[np.sqrt(0.5), 0, 0, np.sqrt(0.5)])


def mirrored(file: Gltf) -> None:
    file.node(
        mesh=file.mesh(VERTICES * (-1, 1, 1), TRIANGLES[:, ::-1]), matrix=np.diag([-1.0, 1, 1, 1]).ravel().tolist()
    )


def quantized(file: Gltf) -> None:
    """Positions in [0, 1] as normalized 16-bit integers with a padded stride."""
    whole = np.zeros((len(VERTICES), 4), np.uint16)
    whole[:, :3] = ((VERTICES + 0.25) / 0.5 * 65535).round()
    file.tree["extensionsUsed"] = file.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    mesh = file.mesh(VERTICES, TRIANGLES)
    number = file.tree["meshes"][mesh]["primitives"][0]["attributes"]["POSITION"]
    view = file.view(whole.tobytes(), byteStride=8)
    file.tree["accessors"][number] |= {"bufferView": view, "componentType": 5123, "normalized": True}
    file.node(mesh=mesh, scale=[0.5, 0.5, 0.5], translation=[-0.25, -0.25, -0.25])


def sparse(file: Gltf) -> None:
    moved = VERTICES.copy()
    moved[[2, 7]] = 9
    mesh = file.mesh(moved, TRIANGLES)
    number = file.tree["meshes"][mesh]["primitives"][0]["attributes"]["POSITION"]
    indices = file.view(np.array([2, 7], np.uint8).tobytes())
    values = file.view(VERTICES[[2, 7]].astype(np.float32).tobytes())
    file.tree["accessors"][number]["sparse"] = {
        "count": 2, "indices": {"bufferView": indices, "componentType": 5121}, "values": {"bufferView": values},
    }  # fmt: skip
    file.node(mesh=mesh)


def draco(file: Gltf) -> None:
    content = DracoPy.encode(VERTICES.astype(np.float32), TRIANGLES.astype(np.uint32), quantization_bits=16)
    file.tree["extensionsUsed"] = file.tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    extension = {"bufferView": file.view(content), "attributes": {"POSITION": 0}}
    mesh = file.mesh(VERTICES, TRIANGLES, extensions={"KHR_draco_mesh_compression": extension})
    for accessor in file.tree["accessors"]:
        del accessor["bufferView"]
    file.node(mesh=mesh)


def morphed(file: Gltf) -> None:
    target = file.accessor((VERTICES * (0, 2, 0)).astype(np.float32))
    mesh = file.mesh(VERTICES * (1, 0.5, 1), TRIANGLES, targets=[{"POSITION": target}])
    file.node(mesh=mesh, weights=[0.25])


def skinned(file: Gltf) -> None:
    """Bound to a joint that has moved; the transform of the mesh's own node has no effect."""
    count = len(VERTICES)
    attributes = {
        "JOINTS_0": file.accessor(np.zeros((count, 4), np.uint8)),
        "WEIGHTS_0": file.accessor(np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))),
    }
    inverse = np.eye(4, dtype=np.float32)
    inverse[1, 3] = -3
    joint = file.node(translation=[0, 4, 0])
    matrices = file.accessor(inverse.T.reshape(1, 16))
    file.tree["skins"] = [{"joints": [joint], "inverseBindMatrices": matrices}]
    mesh = file.mesh(VERTICES - (0, 1, 0), TRIANGLES, attributes=attributes)
    file.node(mesh=mesh, skin=0, translation=[9, 9, 9])


LINEAR = [*to_linear(COLOR), 1.0]


def factor(file: Gltf) -> None:
    file.node(mesh=file.mesh(VERTICES, TRIANGLES, material=file.material(LINEAR)))


def vertex_colors(kind: str) -> Callable[[Gltf], None]:
    def build(file: Gltf) -> None:
        colors = np.tile(np.array(LINEAR), (len(VERTICES), 1))
        values = colors.astype(np.float32) if kind == "float32" else (colors * 65535).round().astype(np.uint16)
        accessor = file.accessor(values, **({} if kind == "float32" else {"normalized": True}))
        file.node(mesh=file.mesh(VERTICES, TRIANGLES, attributes={"COLOR_0": accessor}))

    return build


def textured(half_by_factor: bool = False, half_by_vertex: bool = False, tile: float = 0.5) -> Callable[[Gltf], None]:
    def build(file: Gltf) -> None:
        half = np.array([*to_linear(np.full(3, 0.5)), 1])
        image = file.texture(png(np.minimum(COLOR * (2 if half_by_factor or half_by_vertex else 1), 1)))
        attributes = {"TEXCOORD_0": file.accessor((VERTICES[:, :2] * tile).astype(np.float32))}
        if half_by_vertex:
            attributes["COLOR_0"] = file.accessor(np.tile(half.astype(np.float32), (len(VERTICES), 1)))
        material = file.material(half if half_by_factor else (1, 1, 1, 1), baseColorTexture={"index": image})
        file.node(mesh=file.mesh(VERTICES, TRIANGLES, attributes=attributes, material=material))

    return build


WHITE = {
    "obj": obj(ABSOLUTE),
    "obj relative": obj(V + obj_faces(lambda i: f"{i - len(VERTICES)}")),
    "obj relative by block": obj(relative_by_block()),
    "obj relative with vt and vn": obj(V + UV + "vn 0 0 1\n" + obj_faces(lambda i: f"{i - len(VERTICES)}/-1/-1")),
    "obj with vt": obj(V + UV + obj_faces(lambda i: f"{i + 1}/1")),
    "obj with vn": obj(V + "vn 0 0 1\n" + obj_faces(lambda i: f"{i + 1}//1")),
    "obj triangles": obj(V + obj_faces(lambda i: f"{i + 1}", TRIANGLES.tolist())),
    "obj twice": obj(ABSOLUTE + obj_faces(lambda i: f"{i + 1}", [p[::-1] for p in POLYGONS])),
    "obj mixed winding": obj(V + obj_faces(lambda i: f"{i + 1}", [p[:: (-1) ** k] for k, p in enumerate(POLYGONS)])),
    "obj with a byte order mark and CRLF": obj(b"\xef\xbb\xbf" + ABSOLUTE.replace("\n", "\r\n").encode()),
    "obj with continued lines": obj(V + obj_faces(lambda i: f"\\\n {i + 1}")),
    "obj in groups": obj("g a b\no c\ns 1\n" + ABSOLUTE.replace("f ", "g x\nf ") + ""),
    "obj with comments": obj(ABSOLUTE.replace("\n", "  # a comment\n")),
    "obj with w": obj(lines(VERTICES, "v ", " 1.0") + obj_faces(lambda i: f"{i + 1}")),
    "off": off(),
    "off of ModelNet": off("OFF"),
    "off with comments": off("# first\n\nOFF # second\n", " # third"),
    "off without a header": off(""),
    "off with normals": off("NOFF\n", " 0 0 1"),
    "ply": ply(),
    "ply vertex_index": ply(name="vertex_index"),
    "ply little-endian": ply("binary_little_endian"),
    "ply big-endian": ply("binary_big_endian"),
    "ply strips": ply(strips=True),
    "ply binary strips": ply("binary_little_endian", strips=True),
    "stl": stl(),
    "stl binary": stl(b"made by a test"),
    "stl binary that begins with solid": stl(b"solid made by a test"),
    "glb": gltf(plain),
    "gltf": gltf(plain, ".gltf"),
    "gltf with a buffer file": gltf(plain, ".gltf", True),
    "glb without indices": gltf(no_indices),
    "glb strips": gltf(strips),
    "glb fans": gltf(fans),
    "glb nested": gltf(nested),
    "glb mirrored": gltf(mirrored),
    "glb quantized": gltf(quantized),
    "glb sparse": gltf(sparse),
    "glb draco": gltf(draco),
    "glb morphed": gltf(morphed),
    "glb skinned": gltf(skinned),
}  # fmt: skip
COLORED = {
    "obj Kd": obj(MATERIAL + ABSOLUTE, f"Kd {COLOR[0]} {COLOR[1]} {COLOR[2]}\n"),
    "obj texture": obj(MATERIAL + TEXTURED, "Kd 0 0 0\nmap_Kd textures/c d.png\n"),
    "obj texture by backslash": obj(MATERIAL + TEXTURED, "map_Kd .\\Textures\\C d.png\n"),
    "obj texture with options": obj(MATERIAL + TEXTURED, "map_Kd -s 2 2 -o 0.5 -bm 1 textures/c d.png\n"),
    "obj vertex colours": obj(lines(np.c_[VERTICES, np.tile(COLOR, (12, 1))], "v ") + obj_faces(lambda i: f"{i + 1}")),
    "off vertex colours": off("COFF\n", " 200 100 40 255"),
    "off float colours": off("COFF\n", " {:.6f} {:.6f} {:.6f} 1.0".format(*COLOR)),
    "off face colours": off(face=" 200 100 40"),
    "ply colours": ply(vertex="uchar"),
    "ply float colours": ply(vertex="float"),
    "ply binary colours": ply("binary_big_endian", vertex="uchar"),
    "ply face colours": ply("binary_little_endian", face="uchar"),
    "glb base colour": gltf(factor),
    "glb vertex colours": gltf(vertex_colors("float32")),
    "glb integer vertex colours": gltf(vertex_colors("uint16")),
    "glb texture": gltf(textured()),
    "glb repeated texture": gltf(textured(tile=40.0)),
}  # fmt: skip
BRIGHT = {
    "glb texture times base colour": gltf(textured(half_by_factor=True)),
    "glb texture times vertex colours": gltf(textured(half_by_vertex=True)),
}
VIEWS = Camera.orbit([20.0, 140.0], [30.0, -20.0])


def silhouettes(scene: TriangleMesh) -> tuple[np.ndarray, np.ndarray]:
    """Alpha of two views, and the mean unlit colour."""
    renderer = OpenGLRenderer(64, lighting="unlit", backend="moderngl")
    views = [renderer(scene, VIEWS[i : i + 1]) for i in range(2)]
    alpha = np.stack([view.alpha[0, 0].numpy() for view in views])
    image = np.stack([view.image[0].expand(3, 64, 64).numpy() for view in views], 1)
    return alpha, image.sum((1, 2, 3)) / alpha.sum()


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    faces = torch.from_numpy(TRIANGLES)
    return silhouettes(TriangleMesh(torch.from_numpy(VERTICES).float()[None], faces))[0]


@pytest.mark.parametrize("name", [*WHITE, *COLORED, *BRIGHT])
def test_all_files_give_the_same_shape_and_colour(name, tmp_path, expected, caplog):
    path = {**WHITE, **COLORED, **BRIGHT}[name](tmp_path)
    ((_, scene),) = load_scenes(str(path))
    triangles = scene.vertices[0].double().numpy()[scene.faces.numpy()]
    crosses = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert np.linalg.norm(crosses, axis=1).sum() / 2 == pytest.approx(AREA, rel=1e-3)
    volume = np.linalg.det(triangles).sum() / 6
    assert volume == pytest.approx(7 / 64 * 0.25, rel=1e-3)  # positive: the faces are oriented outward
    points = triangles.reshape(-1, 3)
    assert np.abs(points.min(0) - VERTICES.min(0)).max() < 1e-4 and np.abs(points.max(0) - VERTICES.max(0)).max() < 1e-4
    alpha, color = silhouettes(scene)
    assert np.abs(alpha - expected).mean() < 1e-3
    target = np.ones(3) if name in WHITE else np.minimum(COLOR, 0.5) if name in BRIGHT else COLOR
    assert np.abs(color - target).max() < (0.02 if name in BRIGHT else 0.006)
    assert not caplog.records
