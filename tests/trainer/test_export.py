"""``export`` on a small untrained run, and ``render`` of what it wrote."""

import json
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import small_iggan
import torch
import trimesh
from PIL import Image

from datamodules.shapes import ProceduralShapes, read_binvox
from renderers import OpenGLRenderer, TriangleMesh
from renderers.mesh_files import read_mesh
from renderers.mesh_files.gltf_accessors import GltfFile
from trainer.__main__ import main
from trainer.export.samples import Sample
from visualization.mesh_io import mesh_statistics, write_surface


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return small_iggan.write_run(tmp_path_factory.mktemp("runs") / "small" / "001")


def glb_tree(path: Path) -> dict:
    """Check the header and chunks of a GLB and return its JSON."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON" and size % 4 == 0
    if len(content) > 20 + size:
        rest, kind = struct.unpack_from("<I4s", content, 20 + size)
        assert kind == b"BIN\0" and 28 + size + rest == len(content)
    return json.loads(content[20 : 20 + size])


def test_all_formats_contain_the_same_surface(run, tmp_path, capsys):
    formats = "glb,obj,ply,stl,binvox,npz"
    assert main(["export", "--run_dir", str(run), "--seeds", "0,5", "--formats", formats, "--output", "out"]) == 0
    printed = capsys.readouterr()
    assert "of 2 shapes are watertight" in printed.out and printed.err == ""
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert [shape["sample"] for shape in report["shapes"]] == [0, 5]
    assert "y up" in report["frame"] and "metres" in report["frame"]
    for shape in report["shapes"]:
        for name in shape["files"][:4]:
            mesh = trimesh.load(tmp_path / "out" / name, force="mesh")
            statistics = mesh_statistics(mesh.vertices, mesh.faces)
            assert (
                statistics["faces"] == shape["faces"] and statistics["boundary_edges"] == shape["boundary_edges"] == 0
            ), name
            assert statistics["area"] == pytest.approx(shape["area"], rel=1e-4)
            assert mesh.bounds == pytest.approx(np.array(shape["bounds"]), abs=1e-6)
            assert np.abs(mesh.bounds).max() <= 0.5 + 0.5 / 8
    assert "asset" in glb_tree(tmp_path / "out/0000.glb")
    arrays, grid = np.load(tmp_path / "out/0000.npz"), read_binvox(tmp_path / "out/0000.binvox")
    assert (grid.voxels == (arrays["occupancy"] > arrays["threshold"])).all()
    assert grid.translate == (-0.5, -0.5, -0.5) and grid.scale == 1


def test_solid_voxels_give_watertight_meshes(tmp_path):
    chair = ProceduralShapes("chair", count=1, voxel_size=32)[0].voxels
    sample = Sample(0, chair, OpenGLRenderer(16), None)
    report = sample.report()
    assert report["watertight"] and report["crowded_edges"] == 0
    cells = float(chair.occupancy.sum()) / 32**3
    assert 0.5 * cells < report["volume"] < cells  # marching cubes cuts corners
    for path in sample.write(tmp_path / "chair", ("glb", "obj", "ply", "stl")):
        mesh = trimesh.load(path, force="mesh")
        assert mesh.is_watertight and mesh.volume == pytest.approx(report["volume"], rel=1e-4), path.name


def test_samples_equal_those_of_predict_and_options_change_them(run, tmp_path):
    def exported(*options: str) -> np.ndarray:
        assert (
            main(["export", "--run_dir", str(run), "--seeds", "2", "--formats", "npz", "--output", "o", *options]) == 0
        )
        return np.load(tmp_path / "o/0002.npz")["occupancy"]

    from trainer.runs.loading import load_generator

    module = load_generator(run).module
    assert (exported() == module.predict_step(torch.tensor([2]), 0)["occupancy"][0, 0].numpy()).all()
    assert (exported() != exported("--sample_seed", "1")).any()
    mean = exported("--truncation", "0")
    assert (mean == exported("--truncation", "0", "--sample_seed", "1")).all()


def test_turntable_videos_have_all_frames(run, tmp_path):
    argv = ["export", "--run_dir", str(run), "--seeds", "0", "--output", "out", "--frames", "20", "--film_size", "64"]
    assert main([*argv, "--turntable", "gif"]) == 0
    with Image.open(tmp_path / "out/0000.gif") as film:
        assert film.n_frames == 20 and film.size == (64, 64) and film.info["loop"] == 0
        frames = []
        for i in (0, 5):
            film.seek(i)
            frames.append(np.asarray(film.convert("L")))
    assert frames[0].max() > 50 and (frames[0] != frames[1]).any()
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    assert main([*argv, "--turntable", "mp4"]) == 0
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "out/0000.mp4"))[0] == 20


def test_decimation_limits_the_number_of_faces(run, tmp_path):
    assert main(["export", "--run_dir", str(run), "--seeds", "0", "--decimate", "60", "--output", "out"]) == 0
    (shape,) = json.loads((tmp_path / "out/report.json").read_text())["shapes"]
    assert 0 < shape["faces"] <= 60


def test_surfaces_without_volume_are_not_watertight():
    sheet = TriangleMesh(torch.eye(3)[None], torch.tensor([[0, 1, 2], [0, 2, 1]]))  # as decimation may leave
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = Sample(0, sheet, OpenGLRenderer(16), None).report()
    assert not report["watertight"] and report["volume"] is None and report["boundary_edges"] == 0


@pytest.mark.parametrize("faces", [np.zeros((0, 3), int), np.array([[0, 1, 2]])], ids=["no_faces", "no_area"])
def test_a_mesh_without_area_counts_as_empty(faces):
    report = mesh_statistics(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), faces)
    assert report["faces"] == 0 and report["area"] == 0 and not report["watertight"] and report["bounds"] is None


@pytest.mark.parametrize("sheet", [True, False])
def test_each_component_of_a_watertight_mesh_encloses_a_volume(sheet):
    parts = [trimesh.creation.box((1, 1, 1)), trimesh.creation.box((0.5, 0.5, 0.5))]
    parts[1].invert()  # a cavity
    if sheet:  # coinciding faces next to the box
        parts.append(trimesh.Trimesh(np.eye(3) + 2, [[0, 1, 2], [0, 2, 1]], process=False))
    mesh = trimesh.util.concatenate(parts)
    report = mesh_statistics(mesh.vertices, mesh.faces)
    assert report["watertight"] == (not sheet) and report["boundary_edges"] == 0
    assert report["volume"] == (None if sheet else pytest.approx(0.875))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--frames=48", "--frames is for the video of --turntable; omit it"),
        ("--film_size=5", "--film_size is for"),
        ("--elevation=5", "--elevation is for"),
        (
            "--decimate=9 --formats=npz,binvox",
            "--decimate is for mesh files, and --formats npz,binvox has none; omit it",
        ),
    ],
)
def test_export_options_without_effect_are_rejected(refused, options, message):
    assert message in refused("export", "--run_dir=nowhere", *options.split())


def test_invalid_export_options_are_rejected(run, refused, tmp_path):
    assert "--run_dir RUN" in refused("export")
    assert "nowhere is not a run directory" in refused("export", "--run_dir", "nowhere")
    assert "unknown format 'fbx'" in refused("export", "--run_dir", str(run), "--formats", "fbx")
    assert "not a list such as 0-7" in refused("export", "--run_dir", str(run), "--seeds", "7-0")
    assert "MP4 requires an even size" in refused(
        "export", "--run_dir", str(run), "--turntable", "mp4", "--film_size", "63", "--output", "out"
    )
    assert not Path("out").exists()


def test_the_report_keeps_the_checkpoint_of_each_file(run, tmp_path, monkeypatch):
    """Of calls with other checkpoints or settings, also of one that is stopped."""
    last = run / "checkpoints" / "last.ckpt"
    shutil.copy(last, tmp_path / "best.ckpt")

    def export(*options: str) -> list[tuple[str, float, list[str]]]:
        assert main(["export", "--run_dir", str(run), "--output", "out", *options]) == 0
        return files()

    def files() -> list[tuple[str, float, list[str]]]:
        report = json.loads(Path("out/report.json").read_text())
        reports = [report, *report["earlier"]]
        names = [[name for shape in report["shapes"] for name in shape["files"]] for report in reports]
        return [(Path(r["checkpoint"]).name, r["truncation"], files) for r, files in zip(reports, names, strict=True)]

    first = ("last.ckpt", None, ["0000.ply", "0000.stl", "0001.ply", "0001.stl"])
    assert export("--seeds", "0-1", "--formats", "ply,stl") == [first]
    best = ("best.ckpt", None, ["0000.ply"])
    rest = ("last.ckpt", None, ["0000.stl", "0001.ply", "0001.stl"])
    options = ("--ckpt_path", "best.ckpt", "--formats", "ply")
    assert export("--seeds", "0", *options) == export("--seeds", "0", *options) == [best, rest]
    with monkeypatch.context() as patch:
        write = Sample.write
        patch.setattr(Sample, "write", lambda self, *x: write(self, *x) if self.number else None.stopped)
        with pytest.raises(AttributeError):
            export("--seeds", "1,0", "--formats", "stl", "--truncation", "0.5")
    stopped = ("last.ckpt", 0.5, ["0001.stl"])
    assert files() == [stopped, best, ("last.ckpt", None, ["0000.stl", "0001.ply"])]
    assert export("--seeds", "0-1", "--formats", "ply,stl") == [first]


def test_outputs_that_cannot_be_written_are_named(run, refused):
    argv = ("export", "--run_dir", str(run), "--seeds", "0")
    error = refused(*argv, "--output", "/proc/x")
    assert error == "the directory /proc/x cannot be created: No such file or directory; pass another path"
    Path("report.json").write_text('{"mine": 1}')
    error = refused(*argv, "--output", ".")
    assert error == "report.json exists and is not a report of export; pass another --output"
    assert Path("report.json").read_text() == '{"mine": 1}' and not Path("0000.glb").exists()
    Path("report.json").unlink()
    Path("0000.obj").write_text("mine")
    error = refused(*argv, "--output", ".")
    assert error == "0000.obj exists and is not a file of export; pass another --output"
    assert Path("0000.obj").read_text() == "mine" and not Path("0000.glb").exists()
    Path("0000.obj").rename("0000_material.png")
    assert refused(*argv, "--output", ".").startswith("0000_material.png exists and is not a file of export")


def test_mesh_statistics_of_closed_and_open_boxes():
    box = trimesh.creation.box()
    assert mesh_statistics(box.vertices, box.faces) | {"bounds": None} == {
        "vertices": 8,
        "faces": 12,
        "watertight": True,
        "boundary_edges": 0,
        "crowded_edges": 0,
        "components": 1,
        "area": pytest.approx(6),
        "volume": pytest.approx(1),
        "bounds": None,
    }
    opened = mesh_statistics(box.vertices, box.faces[1:])
    assert not opened["watertight"] and opened["boundary_edges"] == 3 and opened["volume"] is None
    assert mesh_statistics(box.vertices, box.faces[:0])["faces"] == 0


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_empty_surfaces_are_valid_files(tmp_path, kind):
    path = tmp_path / f"empty.{kind}"
    write_surface(path, np.zeros((0, 3)), np.zeros((0, 3), int))
    if kind == "glb":
        assert glb_tree(path) == {"asset": {"version": "2.0"}}
    elif kind == "stl":
        assert path.stat().st_size == 84


def test_exported_colours_and_material_follow_each_format(tmp_path):
    box = trimesh.creation.box()
    colors = np.linspace(0, 1, 24).reshape(8, 3)
    for kind, tolerance in (("glb", 1e-6), ("ply", 0.5 / 255), ("obj", 0.5 / 255)):
        path = tmp_path / f"box.{kind}"
        write_surface(path, box.vertices, box.faces, None, colors)
        mesh = read_mesh(path)
        order = [int(np.flatnonzero((mesh.vertices == vertex).all(1))[0]) for vertex in box.vertices]
        assert mesh.colors is not None and np.abs(mesh.colors[order] - colors).max() < tolerance, kind
    (material,) = glb_tree(tmp_path / "box.glb")["materials"]
    assert material["pbrMetallicRoughness"] == {"metallicFactor": 0, "roughnessFactor": 1}


def test_vanishing_vertex_normals_are_replaced_by_face_normals(tmp_path):
    box = trimesh.creation.box()
    write_surface(tmp_path / "box.glb", box.vertices, box.faces, np.zeros((8, 3)))
    normals = trimesh.load(tmp_path / "box.glb", force="mesh").vertex_normals
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(8))


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_vertices_without_faces_are_not_exported_and_all_normals_are_unit(tmp_path, kind):
    vertices = np.array([[9.0, 9, 9], [0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 2, 0], [3, 3, 0]])
    faces = np.array([[1, 2, 3], [4, 5, 6]])  # the second has no area
    write_surface(tmp_path / f"x.{kind}", vertices, faces, colors=vertices / 9)
    mesh = trimesh.load(tmp_path / f"x.{kind}", force="mesh", process=False)
    assert len(mesh.vertices) == 6 and mesh.vertices.max() == 3
    if kind == "glb":  # trimesh computes normals again
        (written,) = glb_tree(tmp_path / "x.glb")["meshes"]
        file = GltfFile((tmp_path / "x.glb").read_bytes(), tmp_path)
        normals = file.accessor(written["primitives"][0]["attributes"]["NORMAL"])
        assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(6))


def test_render_reads_exported_files(run, tmp_path, capsys):
    assert main(["export", "--run_dir", str(run), "--seeds", "0", "--formats", "glb,binvox,npz", "--output", "o"]) == 0
    small = ["--image_size", "32", "--azimuth", "0,90"]
    assert main(["render", "o/0000.glb", "o/0000.binvox", *small, "--normals", "--depth", "--output", "gl"]) == 0
    assert "18 images of 2 shapes in gl" in capsys.readouterr().out
    first, second = (np.asarray(Image.open(f"gl/{name}_000.png"), float) for name in ("0000", "0000_1"))
    assert first.max() > 50 and np.abs(first - second).mean() < 12  # the same surface, rasterized and ray-cast
    depth = np.load("gl/0000_000_depth.npy")
    assert depth.shape == (32, 32) and np.isinf(depth[0, 0]) and 1 < depth.min() < 2.5
    for renderer in ("soft", "absorption", "lit_absorption", "visual_hull", "emission_absorption"):
        assert main(["render", "o/0000.npz", *small, "--renderer", renderer, "--output", renderer]) == 0
        assert np.asarray(Image.open(f"{renderer}/0000_001.png")).max() > 50, renderer
    assert main(["render", "o/0000.glb", *small, "--renderer", "absorption", "--voxel_size", "8", "--output", "v"]) == 0
