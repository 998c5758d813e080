"""``render``: its inputs, its options and the images that it writes."""

import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from datamodules.shapes import write_binvox
from trainer.__main__ import main

BOX = trimesh.creation.box((0.2, 0.2, 0.2))


def test_unreadable_scenes_are_rejected_in_one_sentence(refused, tmp_path):
    trimesh.creation.box((50, 1, 1)).export("long.stl")
    Path("broken.glb").write_bytes(b"glTF and no more")
    assert "extends to 25 from the origin" in refused("render", "long.stl")
    assert main(["render", "long.stl", "--fit", "--image_size", "16"]) == 0
    assert "broken.glb is truncated" in refused("render", "broken.glb")
    assert "no such file: gone.obj" in refused("render", "gone.obj")
    assert "has no normals and no depth" in refused("render", "long.stl", "--renderer", "absorption", "--depth")
    assert "--backend of soft must be one of" in refused("render", "long.stl", "--renderer", "soft", "--backend", "x")
    np.savez("flat.npz", a=np.zeros((2, 3)))
    assert "neither a mesh of export nor a single array" in refused("render", "flat.npz")


@pytest.mark.parametrize(
    ("mesh", "options", "message"),
    [
        (trimesh.creation.icosphere(2, 0.9), "--renderer=absorption", "x.stl extends to 0.9 along an axis, and voxels"),
        (trimesh.creation.icosphere(2, 0.9), "--renderer=visual_hull", "fill the cube to 0.5; pass --fit if it is a"),
        (BOX.copy().apply_translation((1.2, 0, 0)), "", "x.stl starts 1.1 from the origin, and cameras show only 1"),
        (BOX.copy().apply_translation((0.8, 0.8, 0)), "--renderer=absorption", "x.stl extends to 0.9 along an axis"),
        (BOX.copy().apply_scale(0.005), "--renderer=soft", "side of x.stl is 0.001, and cameras show 2; pass --fit"),
        (BOX.copy().apply_scale(0.005), "--renderer=absorption", "side of x.stl is 0.001"),
    ],
)
def test_meshes_that_would_be_cut_or_invisible_are_rejected(refused, tmp_path, mesh, options, message):
    mesh.export("x.stl")
    argv = ["render", "x.stl", "--image_size=16", *options.split()]
    assert message in refused(*argv)
    assert not Path("renders").exists()
    assert main([*argv, "--fit"]) == 0
    assert np.asarray(Image.open("renders/x.png")).any()


@pytest.mark.parametrize("renderer", ["opengl", "soft", "absorption"])
def test_meshes_that_fill_the_cube_of_the_voxels_are_rendered(tmp_path, renderer):
    BOX.copy().apply_scale(5.001).export("x.ply")  # not exactly, as after rounding
    assert main(["render", "x.ply", "--image_size=16", f"--renderer={renderer}"]) == 0
    assert np.asarray(Image.open("renders/x.png")).any()


@pytest.mark.parametrize(
    ("file", "renderer", "message"),
    [
        *(("empty.binvox", renderer, "pass another shape") for renderer in ("opengl", "soft", "absorption")),
        *(("faint.npz", renderer, "largest is 0.4; decrease --threshold") for renderer in ("opengl", "soft")),
    ],
)
def test_voxels_that_would_be_invisible_are_rejected(refused, tmp_path, file, renderer, message):
    write_binvox("empty.binvox", np.zeros((4, 4, 4), bool))
    np.savez("faint.npz", **FAINT)
    sentence = refused("render", file, "--renderer", renderer, "--image_size=16")
    assert f"{file} would be invisible: no voxel exceeds" in sentence and message in sentence
    assert not Path("renders").exists()


@pytest.mark.parametrize("options", ["--renderer=absorption", "--renderer=soft --threshold=0.3", "--threshold=0.3"])
def test_faint_voxels_are_rendered_where_they_are_visible(tmp_path, options):
    np.savez("faint.npz", **FAINT)
    assert main(["render", "faint.npz", "--image_size=16", *options.split()]) == 0
    assert np.asarray(Image.open("renders/faint.png")).any()


CUBE = {"occupancy": np.pad(np.ones((2, 2, 2)), 1)}
MESH = {
    "vertices": np.eye(3),
    "faces": np.array([[0, 1, 2]]),
    "uvs": np.eye(3)[:, :2],
    "texture": np.full((3, 4, 4), 0.5),
}
FAINT = {"occupancy": CUBE["occupancy"] * 0.4}

REAL = "voxels must be real numbers (D, D, D)"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (CUBE | {"color": np.zeros((4, 4, 4, 3))}, "color must be numbers (C, 4, 4, 4) with C = 1 or 3"),
        (CUBE | {"color": np.zeros((3, 2, 2, 2))}, "color must be"),
        (CUBE | {"color": np.zeros((2, 4, 4, 4))}, "color must be"),
        (CUBE | {"color": np.full((3, 4, 4, 4), "red")}, "color must be"),
        ({"a": np.full((1, 1, 1), "text")}, REAL),
        ({"a": np.zeros((2, 2, 2), complex)}, REAL),
        ({"a": np.zeros((0, 0, 0))}, REAL),
        ({"occupancy": np.ones((1, 1, 4, 4, 4)), "a": np.ones((4, 4, 4))}, REAL),
        ({"occupancy": np.ones((4, 4, 2)), "a": np.ones((4, 4, 4))}, REAL),
        ({"a": np.ones((4, 4, 4)), "b": np.ones((4, 4, 4))}, "nor a single array of voxels"),
        ({"a": np.full((2, 2, 2), 1e300)}, "must be in [0, 1]"),
        (MESH | {"faces": np.array([[0, 1, 3]])}, "faces must be integers (F, 3) that index 3 vertices"),
        (MESH | {"faces": np.array([[0, 1, -1]])}, "faces must be"),
        (MESH | {"faces": np.array([[0.0, 1.0, 2.0]])}, "faces must be"),
        (MESH | {"faces": np.zeros((0, 3), int)}, "faces must be"),
        (MESH | {"uvs": np.zeros((2, 2))}, "uvs must be finite numbers (3, 2), one pair per vertex"),
        (MESH | {"uvs": np.full((3, 2), np.nan)}, "uvs must be"),
        (MESH | {"vertices": np.full((3, 3), np.nan)}, "vertices must be finite numbers (V, 3)"),
        (MESH | {"vertices": np.full((3, 3), 0.1)}, "not all at one point"),
        (MESH | {"vertices": np.eye(3) * 1e300}, "vertices must be"),
        (MESH | {"vertices": np.full((3, 3), "a")}, "vertices must be"),
        (MESH | {"vertices": np.float64(1)}, "vertices must be"),
        (MESH | {"texture": np.full((3, 4, 4), 2.0)}, "texture must be numbers (C, H, W) in [0, 1]"),
        (MESH | {"texture": np.zeros((4, 4, 3))}, "texture must be"),
        (MESH | {"vertices": np.eye(3) * 400}, "extends to 400 from the origin, and cameras show only 1; pass --fit"),
    ],
)
def test_wrong_arrays_of_npz_files_are_rejected(refused, tmp_path, arrays, message):
    np.savez("wrong.npz", **arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert message in (sentence := refused("render", "wrong.npz", "--image_size", "16"))
    assert sentence.startswith("wrong.npz")


def test_npz_meshes_are_placed_like_mesh_files(refused, tmp_path):
    np.savez("mesh.npz", **MESH | {"vertices": np.eye(3) * 400})
    assert main(["render", "mesh.npz", "--fit", "--up", "z", "--image_size", "16"]) == 0
    with Path("array.npz").open("wb") as file:
        np.save(file, CUBE["occupancy"])
    assert "array.npz is not a readable npz" in refused("render", "array.npz")


@pytest.mark.parametrize("header", ["'shape': (8, 8", "'shape': (100000, 100000, 100000)}\n", "'shape': (8, 8, 8)}\n"])
def test_corrupt_arrays_of_npz_files_are_rejected(refused, tmp_path, header):
    text = "{'descr': '<f4', 'fortran_order': False, " + header
    with zipfile.ZipFile("cut.npz", "w") as file:
        file.writestr("occupancy.npy", np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text.encode())
    assert "cut.npz is not a readable npz; export it again" in refused("render", "cut.npz", "--image_size", "16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("box.obj --shapes=0-9", "--shapes is for configs; omit it"),
        ("box.obj --data.shapes.root=/x", "--data.shapes.root is for configs; omit it"),
        ("box.obj --data.shapes.root /x", "--data.shapes.root is for configs; omit it"),
        ("box.obj --data.shapes.root", "--data.shapes.root needs a value: --data.shapes.root=VALUE"),
        ("box.obj --data.shapes.root --fit", "--data.shapes.root needs a value"),
        ("box.obj --unlit --renderer=absorption", "--unlit is for opengl and soft; omit it"),
        ("box.obj --threshold=0.5", "--threshold is for voxels that opengl or soft renders as a surface; omit it"),
        ("cube.npz --threshold=0.9 --renderer=absorption", "--threshold is for"),
        ("box.obj --voxel_size=8", "--voxel_size is for meshes that a volume renderer renders as voxels; omit it"),
        ("cube.npz --voxel_size=8 --renderer=absorption", "--voxel_size is for"),
        ("cube.npz --up=z", "--up is for mesh files; omit it"),
        ("cube.npz --fit", "--fit is for mesh files; omit it"),
    ],
)
def test_render_options_without_effect_are_rejected(refused, tmp_path, options, message):
    trimesh.creation.box().export("box.obj")
    np.savez("cube.npz", **CUBE)
    assert message in refused("render", *options.split())
    assert not Path("renders").exists()


def test_render_options_for_some_of_the_inputs_are_accepted(tmp_path):
    trimesh.creation.box().export("box.obj")
    np.savez("cube.npz", **CUBE)
    assert main(["render", "box.obj", "cube.npz", "--fit", "--threshold", "0.9", "--image_size", "8"]) == 0


def test_no_image_of_render_replaces_another(tmp_path):
    box = trimesh.creation.box()
    names = ("box_2", "x/box", "y/box", "a", "a_000", "a_normals", "b", "b_views_depth")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        box.export(tmp_path / f"{name}.obj")

    def rendered(folder: str, *options: str) -> set[str]:
        files = [f"{name}.obj" for name in names]
        assert main(["render", *files, "--image_size=8", f"--output={folder}", *options]) == 0
        return {path.stem for path in Path(folder).glob("*.png")}

    assert rendered("one") == {"box_2", "box", "box_1", "a", "a_000", "a_normals", "b", "b_views_depth"}
    assert len(rendered("two", "--views=2")) == len(names) * 3
    assert len(rendered("all", "--views=2", "--normals", "--depth")) == len(names) * 9


def test_render_replaces_its_own_images_and_no_image_of_the_user(refused, tmp_path):
    """A texture often has the name of its mesh and lies beside it."""
    Path("chair.obj").write_text(
        "mtllib chair.mtl\nusemtl wood\nv 0 0 0\nv .4 0 0\nv 0 .4 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
    )
    Path("chair.mtl").write_text("newmtl wood\nmap_Kd chair.png\n")
    Image.new("RGB", (8, 8), (200, 100, 50)).save("chair.png")
    texture = Path("chair.png").read_bytes()
    argv = ["render", "chair.obj", "--image_size=16"]
    error = refused(*argv, "--normals", "--output=.")
    assert error == "chair.png exists and is not a file written by unrender; pass another --output"
    assert Path("chair.png").read_bytes() == texture and not Path("chair_normals.png").exists()
    for elevation in ("10", "60"):
        assert main([*argv, "--elevation", elevation]) == 0
    Path("renders/chair_depth.npy").write_bytes(b"mine")
    assert "chair_depth.npy exists and is not a file written by unrender" in refused(*argv, "--depth")
    assert Path("renders/chair_depth.npy").read_bytes() == b"mine" and not Path("renders/chair_depth.png").exists()
    Path("renders/chair_depth.npy").unlink()
    for _ in range(2):
        assert main([*argv, "--depth"]) == 0
    Path("renders/chair.png").write_bytes(b"no image")
    assert "chair.png exists and is not a file written by unrender" in refused(*argv)


@pytest.mark.parametrize("backend", ["pyrender", "moderngl"])
def test_images_of_one_pixel_are_rendered(tmp_path, backend):
    trimesh.creation.box((1.6, 1.6, 1.6)).export("box.obj")  # covers samples of the pixel
    options = ["--image_size=1", f"--backend={backend}", "--normals", "--depth"]
    assert main(["render", "box.obj", *options]) == 0
    assert np.asarray(Image.open("renders/box.png")).max() > 50


def test_lit_absorption_writes_normals_and_depth(tmp_path):
    np.savez("cube.npz", **CUBE)
    assert main(["render", "cube.npz", "--renderer=lit_absorption", "--image_size=16", "--normals", "--depth"]) == 0
    assert 1 < np.load("renders/cube_depth.npy").min() < 2.5
    assert np.asarray(Image.open("renders/cube_normals.png")).max() > 100


def test_render_says_what_takes_long_and_refuses_what_does_not_fit(tmp_path, monkeypatch, capsys, refused):
    command = ["render", str(tmp_path / "cube.npz"), "--image_size", "32", "--output", str(tmp_path / "out")]
    np.savez(tmp_path / "cube.npz", np.pad(np.ones((4, 4, 4), dtype=np.float32), 2))
    assert main([*command, "--renderer=absorption"]) == 0
    assert "may take minutes" not in capsys.readouterr().err
    monkeypatch.setattr("trainer.commands.render.MANY_PIXELS", 32**2)
    assert main([*command, "--renderer=absorption", "--views=2"]) == 0
    assert "rendering 2 images of 32 x 32 pixels, which may take minutes" in capsys.readouterr().err
    monkeypatch.setattr("trainer.commands.render.available_memory", lambda: 64 * 32**2 * 2)
    assert "for 3 views of a shape" in refused(*command, "--renderer=absorption", "--views=3")


@pytest.mark.parametrize("renderer", ["opengl", "lit_absorption"])
def test_render_keeps_the_colors_of_a_configs_shapes(tmp_path, renderer):
    options = ["--image_size", "32", "--renderer", renderer, "--output", str(tmp_path)]
    assert main(["render", "chairs_color.yaml", "--shapes", "0", *options]) == 0
    (file,) = tmp_path.glob("*.png")
    pixels = np.asarray(Image.open(file).convert("RGB"), int)
    assert (pixels.max(-1) - pixels.min(-1)).max() > 30
