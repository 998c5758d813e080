"""Mesh files that other programs write, and what the reader does with each."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from gltf_files import Gltf
from picture_files import tiff
from PIL import Image
from small_meshes import CHECKERS, SQUARE, UV, box, png, refusal, write

from datamodules.shapes import ShapeFolder, ShapeNetShapes
from renderers import Camera, Lighting, OpenGLRenderer, SoftRasterizer, TriangleMesh
from renderers.mesh_files import read_mesh
from renderers.mesh_files.images import decode_texture
from renderers.mesh_files.parts import Notes
from trainer.export.scene_io import load_scenes

BOXES = {
    "seat": ((0, 0.4, 0), (0.5, 0.5, 0.5)),
    "back": ((0, 0.5, 0), (0.5, 1, 0.1)),
    "leg": ((0.2, 0, 0.2), (0.3, 0.4, 0.3)),
}
QUADS = [
    (1, 2, 4, 3),
    (5, 7, 8, 6),
    (1, 5, 6, 2),
    (3, 4, 8, 7),
    (1, 3, 7, 5),
    (2, 6, 8, 4),
]  # of corners x-major, z fastest


def chair(relative: bool) -> str:
    text, count = "", 0
    for low, high in BOXES.values():
        corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
        text += "".join("v {} {} {}\n".format(*corner) for corner in corners)
        count += 8
        first = -8 - 1 if relative else count - 8
        text += "".join("f " + " ".join(str(first + i) for i in quad) + "\n" for quad in QUADS)
    return text


def scene_of(path: Path) -> TriangleMesh:
    ((_, scene),) = load_scenes(str(path), fit=True)
    assert isinstance(scene, TriangleMesh)
    return scene


def renderers(**options):
    return {
        "pyrender": OpenGLRenderer(64, **options),
        "moderngl": OpenGLRenderer(64, backend="moderngl", **options),
        "soft": SoftRasterizer(64, margin=0, two_sided=True, lighting=None if options else Lighting()),
    }


def images(scene: TriangleMesh, azimuth: float = 30.0, **options) -> dict[str, np.ndarray]:
    camera = Camera.orbit(azimuth, 20.0)
    return {name: r(scene, camera).image[0].expand(3, -1, -1).numpy() for name, r in renderers(**options).items()}


def area(path: Path) -> float:
    mesh = read_mesh(path)
    return float(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).area)


def test_relative_indices_give_the_shape_of_absolute_ones(tmp_path):
    paths = [write(tmp_path / name / "model.obj", chair(name == "relative")) for name in ("relative", "absolute")]
    shapes = ShapeFolder(tmp_path, 32)
    absolute, relative = (shape.voxels.occupancy for shape in shapes)
    assert (absolute == relative).all() and absolute.any()
    first, second = (images(scene_of(path)) for path in paths)
    assert all((first[name] == second[name]).all() for name in first)
    root = tmp_path / "ShapeNet"
    for path in paths:
        write(root / "03001627" / path.parent.name / "model.obj", path.read_bytes())
    one, two = ShapeNetShapes(root, "chair", 32, "obj", split="all")
    assert (one.voxels.occupancy == two.voxels.occupancy).all()


def test_two_sided_and_mixed_windings_are_lit_like_a_box_by_all_backends(tmp_path):
    variants = {"box.off": box(), "twice.off": box(twice=True), "mixed.off": box(flipped=True)}
    for name, mesh in variants.items():
        mesh.export(tmp_path / name)
    for name, mesh in {"box.stl": box(), "mixed.stl": box(flipped=True)}.items():
        mesh.export(tmp_path / name)  # an STL file has no shared vertices
    mesh = box()
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    flat = np.repeat(mesh.face_normals, 3, axis=0)
    reference = TriangleMesh(
        torch.from_numpy(corners / 0.8 * 0.9).float()[None],
        torch.arange(36).view(-1, 3),
        normals=torch.from_numpy(flat).float()[None],
    )
    for azimuth in (30.0, 200.0):
        expected = images(reference, azimuth)
        for path in sorted(tmp_path.iterdir()):
            for backend, image in images(scene_of(path), azimuth).items():
                assert np.abs(image - expected[backend]).mean() < 1e-3, (path.name, backend)
        for backend, image in expected.items():
            assert np.abs(image - expected["pyrender"]).mean() < 0.02, backend


def test_back_faces_of_another_material_are_dropped(tmp_path):
    write(tmp_path / "m.mtl", "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\n")
    faces = "usemtl {}\nf 1 2 3 4\nusemtl {}\nf 4 3 2 1\n"
    meshes = [
        read_mesh(write(tmp_path / f"{front}.obj", f"mtllib m.mtl\n{SQUARE}{faces.format(front, back)}"))
        for front, back in (("red", "red"), ("red", "blue"))
    ]
    for mesh in meshes:
        assert len(mesh.faces) == 2 and mesh.colors is not None and (mesh.colors == (1, 0, 0)).all()


def test_open_sheets_are_lit_from_both_sides_by_all_backends(tmp_path):
    path = write(tmp_path / "sheet.obj", SQUARE + "f 1 2 3 4\n")
    for azimuth in (20.0, 200.0):
        shown = images(scene_of(path), azimuth)
        assert min(image.max() for image in shown.values()) > 0.4
        assert all(image.max() == pytest.approx(shown["pyrender"].max(), abs=0.01) for image in shown.values())


def test_smooth_surfaces_stay_smooth(tmp_path):
    trimesh.creation.icosphere(3, 0.5).export(tmp_path / "ball.stl")
    ((_, scene),) = load_scenes(str(tmp_path / "ball.stl"))
    points = scene.vertices[0] / scene.vertices[0].norm(dim=-1, keepdim=True)
    assert (scene.normals[0] * points).sum(-1).min() > 0.999
    assert scene.vertices.shape[1] == 642  # no vertex is split


def test_concave_caps_keep_their_notch_and_doorways_stay_open(tmp_path):
    outline = "v 0 0 0\nv 1 0 0\nv 1 0.3 0\nv 0.3 0.3 0\nv 0.3 1 0\nv 0 1 0\n"
    assert area(write(tmp_path / "l.obj", outline + "f 1 2 3 4 5 6\n")) == pytest.approx(0.51)
    assert area(write(tmp_path / "back.obj", outline + "f 2 1 6 5 4 3\n")) == pytest.approx(0.51)
    wall = "v 0 0 0\nv 1 0 0\nv 1 0 2\nv 2 0 2\nv 2 0 0\nv 3 0 0\nv 3 0 3\nv 1.5 0 3\nv 0 0 3\n"
    assert area(write(tmp_path / "door.obj", wall + "f 1 2 3 4 5 6 7 8 9\n")) == pytest.approx(7)
    concave = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    concave += "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n2 0 0\n0.5 0.5 0\n0 2 0\n"
    assert area(write(tmp_path / "dart.ply", concave + "4 1 2 3 0\n")) == pytest.approx(1)


def test_textures_repeat_mirror_and_clamp(tmp_path):
    faces = "usemtl m\nf 1/1 2/2 3/3 4/4\n"
    write(tmp_path / "check.png", png(CHECKERS))
    write(tmp_path / "m.mtl", "newmtl m\nmap_Kd check.png\n")
    repeated = write(tmp_path / "repeat.obj", "mtllib m.mtl\n" + SQUARE + UV.format(4) + faces)
    once = write(tmp_path / "once.obj", "mtllib m.mtl\n" + SQUARE + UV.format(1) + faces)
    front = Camera.orbit(0.0, 0.0)
    renderer = OpenGLRenderer(320, lighting="unlit", backend="moderngl")
    large, small = (renderer(scene_of(path), front).image[0].numpy() for path in (repeated, once))
    side = 36  # of one of 4 x 4 copies in pixels: 0.9 / 2 * 320 / 4
    for row in range(4):
        for column in range(4):
            top, left = 88 + side * row, 88 + side * column
            copy, whole = large[:, top : top + side, left : left + side], small[:, 88:232, 88:232]
            assert np.abs(copy - whole[:, 2::4, 2::4]).mean() < 0.05
    for wrap, red in ((10497, 0.5), (33648, 0.5), (33071, None)):
        file = Gltf()
        uvs = file.accessor(np.array([[0, 0], [4, 0], [4, 4], [0, 4]], np.float32))
        texture = file.texture(png(CHECKERS), wrapS=wrap, wrapT=wrap)
        square = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
        material = file.material(baseColorTexture={"index": texture})
        file.node(
            mesh=file.mesh(square, np.array([[0, 2, 1], [0, 3, 2]]), attributes={"TEXCOORD_0": uvs}, material=material)
        )
        image = renderer(scene_of(file.save(tmp_path / f"{wrap}.glb")), front).image[0, 0].numpy()
        mean = image[88:232, 88:232].mean()
        if wrap == 33071:  # one copy in the corner; its last pixels, which are red at the corner, fill the rest
            assert image[88 + 100, 88 + 100] == 1 and image[88 + 9, 88 + 100] == 0
        else:
            assert mean == pytest.approx(red, abs=0.03)


def test_textured_and_plain_materials_share_one_mesh(tmp_path):
    write(tmp_path / "blue.png", png(np.full((5, 7, 3), [0, 0, 255])))
    write(tmp_path / "green.png", png(np.full((3, 2, 3), [0, 255, 0])))
    write(tmp_path / "m.mtl", "newmtl b\nmap_Kd blue.png\nnewmtl g\nmap_Kd green.png\nnewmtl r\nKd 1 0 0\n")
    faces = "usemtl b\nf 1/1 2/2 3/3\nusemtl g\nf 1/1 3/3 4/4\nusemtl r\nf 5 6 7\n"
    path = write(tmp_path / "x.obj", "mtllib m.mtl\n" + SQUARE + "v 2 0 0\nv 3 0 0\nv 3 1 0\n" + UV.format(3) + faces)
    mesh = read_mesh(path)
    assert mesh.texture is not None and mesh.uvs is not None and mesh.colors is not None
    centres = mesh.uvs[mesh.faces].mean(1) * mesh.texture.shape[1::-1]
    colors = mesh.texture[centres[:, 1].astype(int), centres[:, 0].astype(int)] / 255 * mesh.colors[mesh.faces].mean(1)
    assert colors.round(2).tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert all(np.abs(image - images(scene_of(path), lighting="unlit")["pyrender"]).mean() < 0.01
               for image in images(scene_of(path), lighting="unlit").values())  # fmt: skip


def test_plain_colour_and_texture_coordinates_without_a_texture(tmp_path):
    file = Gltf()
    mesh = box()
    file.node(mesh=file.mesh(mesh.vertices, mesh.faces, material=file.material((1, 0, 0, 1))))
    red = read_mesh(file.save(tmp_path / "red.glb"))
    assert red.texture is None and red.colors is not None and np.abs(red.colors - [1, 0, 0]).max() < 1e-6
    plain = write(tmp_path / "no_uv.obj", SQUARE + "f 1 2 3 4\n")
    with_uv = write(tmp_path / "uv.obj", SQUARE + UV.format(1) + "f 1/1 2/2 3/3 4/4\n")
    assert (images(scene_of(plain))["moderngl"] == images(scene_of(with_uv))["moderngl"]).all()


def test_holes_of_an_alpha_mask_are_said_to_be_filled(tmp_path, caplog):
    pixels = np.full((2, 2, 4), 255)
    pixels[0, 0, 3] = 100
    for cutoff, said in ((0.3, False), (0.5, True)):
        file = Gltf()
        uvs = file.accessor(np.array([[0, 0], [1, 0], [1, 1]], np.float32))
        material = file.material(baseColorTexture={"index": file.texture(png(pixels))})
        file.tree["materials"][material] |= {"alphaMode": "MASK", "alphaCutoff": cutoff}
        file.node(mesh=file.mesh(np.eye(3), np.array([[0, 1, 2]]), attributes={"TEXCOORD_0": uvs}, material=material))
        read_mesh(file.save(tmp_path / "mask.glb"))
        assert ("transparency is not supported" in caplog.text) == said


def test_alpha_mask_without_cutoff_keeps_its_texture(tmp_path):
    file = Gltf()
    texture = file.texture(png(CHECKERS))
    uvs = file.accessor(np.array([[0, 0], [1, 0], [1, 1]], np.float32))
    for mode in ("MASK", "OPAQUE"):
        material = file.material(baseColorTexture={"index": texture})
        file.tree["materials"][material]["alphaMode"] = mode
        shift = (0, 0, len(file.tree["nodes"]))
        triangle = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) + shift
        file.node(mesh=file.mesh(triangle, np.array([[0, 1, 2]]), attributes={"TEXCOORD_0": uvs}, material=material))
    mesh = read_mesh(file.save(tmp_path / "mask.glb"))
    assert mesh.texture is not None and (mesh.texture == CHECKERS).all() and len(mesh.faces) == 2


@pytest.mark.parametrize(
    ("mtl", "word"),
    [
        ("map_Kd gone.png", "gone.png was not found"),
        ("map_Kd broken.png", "broken.png cannot be decoded"),
        ("Kd 1 1 1\nd 0.5", "transparency is not supported"),
        (None, "m.mtl was not found"),
        ("newmtl other", "material m is not defined"),
    ],
)
def test_what_is_missing_is_said(tmp_path, caplog, mtl, word):
    write(tmp_path / "broken.png", b"no image")
    if mtl is not None:
        write(tmp_path / "m.mtl", mtl if "newmtl" in mtl else f"newmtl m\n{mtl}\n")
    path = write(tmp_path / "x.obj", "mtllib m.mtl\nusemtl m\n" + SQUARE + UV.format(1) + "f 1/1 2/2 3/3 4/4\n")
    assert read_mesh(path).texture is None
    assert word in caplog.text and str(path) in caplog.text


def test_required_extensions_that_are_not_supported_are_named(tmp_path):
    file = Gltf()
    file.node(mesh=file.mesh(box().vertices, box().faces))
    file.tree["extensionsRequired"] = ["EXT_meshopt_compression", "KHR_mesh_quantization"]
    message = refusal(file.save(tmp_path / "x.glb"))
    assert "requires the glTF extension EXT_meshopt_compression, which" in message
    file.tree["extensionsRequired"] = []
    file.tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {}}
    assert "EXT_mesh_gpu_instancing" in refusal(file.save(tmp_path / "x.glb"))


def test_texture_transforms_follow_the_extension(tmp_path):
    quadrants = np.zeros((8, 8, 3))
    quadrants[:4, 4:] = [255, 0, 0]  # the upper right
    file = Gltf()
    texture = file.texture(png(quadrants))
    uvs = file.accessor(np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    transform = {"offset": [0.5, 0.5], "rotation": np.pi / 2, "scale": [0.5, 0.5]}
    material = file.material(baseColorTexture={"index": texture, "extensions": {"KHR_texture_transform": transform}})
    file.node(mesh=file.mesh(np.eye(3), np.array([[0, 1, 2]]), attributes={"TEXCOORD_0": uvs}, material=material))
    mesh = read_mesh(file.save(tmp_path / "x.glb"))
    assert mesh.uvs is not None
    order = [int(np.flatnonzero((mesh.vertices == corner).all(1))[0]) for corner in np.eye(3)]
    # (u, v) goes to (0.5 + 0.5 v, 0.5 - 0.5 u): all corners are in the upper right.
    assert mesh.uvs[order] == pytest.approx(np.array([[0.5, 0.5], [0.5, 0], [1, 0.5]]))


def test_colours_that_are_not_read_are_said(tmp_path, caplog):
    content = bytearray(trimesh.exchange.stl.export_stl(box()))
    content[84 + 48 : 84 + 50] = (0x8000 | 31).to_bytes(2, "little")
    path = write(tmp_path / "colored.stl", bytes(content))
    assert read_mesh(path).colors is None and "colours of STL files are not supported" in caplog.text
    caplog.clear()
    path = write(tmp_path / "some.obj", SQUARE.replace("\n", " 1 0 0\n", 1) + "f 1 2 3 4\n")
    assert read_mesh(path).colors is None and "only some vertices have colours" in caplog.text


@pytest.mark.parametrize(("dtype", "value", "expected"), [(np.uint16, 257 * 100, 100), (np.float32, 0.5, None)])
def test_textures_of_more_than_eight_bits_keep_their_brightness(tmp_path, caplog, dtype, value, expected):
    name = "grey.png" if dtype == np.uint16 else "grey.tiff"
    Image.fromarray(np.full((4, 4), value, dtype)).save(tmp_path / name)
    write(tmp_path / "a.mtl", f"newmtl m\nmap_Kd {name}\n")
    mesh = read_mesh(write(tmp_path / "a.obj", f"mtllib a.mtl\n{SQUARE}{UV.format(1)}usemtl m\nf 1/1 2/2 3/3 4/4\n"))
    if expected is None:
        assert mesh.texture is None and "the texture grey.tiff has 32-bit pixels" in caplog.text
    else:
        assert mesh.texture is not None and (mesh.texture == expected).all()


def test_textures_that_pillow_decodes_wrongly(tmp_path):
    pixels = decode_texture("a.tiff", tiff(12, [bytes.fromhex("0003e87d0fff")], 4), Notes())
    assert pixels is not None and pixels[0, :, 0].tolist() == [0, 62, 125, 255]
    notes = Notes()
    assert decode_texture("b.tiff", tiff(16, [bytes(6)] * 3, 3), notes) is None
    content = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    assert decode_texture("c.png", content, notes) is not None
    assert decode_texture("d.png", content[:4000] + bytes(len(content) - 4000), notes) is None
    assert [f"texture {name} cannot be decoded" in "".join(notes.lines) for name in ("b.tiff", "d.png")] == [True] * 2


def test_textures_of_formats_that_start_programs_are_not_opened(monkeypatch):
    """A file named .png may be PostScript, for which Pillow starts Ghostscript."""
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: started.append(args))
    notes = Notes()
    assert decode_texture("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", notes) is None
    assert not started
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "TGA", "PPM", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (200, 0, 0)).save(file, kind)
        pixels = decode_texture(f"a.{kind.lower()}", file.getvalue(), Notes())
        assert pixels is not None and pixels.shape == (4, 4, 3) and pixels[0, 0, 0] > 190
