"""``export``, ``render`` and ``compare`` on small untrained runs."""

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import small_iggan
import torch
import trimesh
import yaml
from PIL import Image

from datamodules.shapes import ProceduralShapes, read_binvox
from metrics.manifolds import FIGURES
from renderers import OpenGLRenderer, TriangleMesh
from renderers.mesh_files import read_mesh
from trainer.__main__ import main
from trainer.commands.compare import ComparedRun
from trainer.export.samples import Sample
from trainer.runs.run_directory import RunDirectory
from visualization.mesh_io import mesh_statistics, write_surface


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the small IG-GAN, saved before its first step."""
    folder = tmp_path_factory.mktemp("runs") / "small" / "001"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3, "model": small_iggan.CONFIG}))
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    trainer = small_iggan.trainer(folder)
    trainer.strategy.connect(small_iggan.iggan())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    lines = [{"kimg": k, "step": k, "fid": 90.0 - k, "note": "extractor x", "seconds": 60.0} for k in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


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


CUBE = {"occupancy": np.pad(np.ones((2, 2, 2)), 1)}
MESH = {
    "vertices": np.eye(3),
    "faces": np.array([[0, 1, 2]]),
    "uvs": np.eye(3)[:, :2],
    "texture": np.full((3, 4, 4), 0.5),
}
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("box.obj --shapes=0-9", "--shapes is for configs; omit it"),
        ("box.obj --data.shapes.root=/x", "--data.shapes.root is for configs; omit it"),
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


def test_compare_writes_one_page_for_all_runs(run, tmp_path, capsys):
    import shutil

    other = tmp_path / "other" / "002"
    shutil.copytree(run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["init_args"]["generator"]["init_args"]["latent_size"] = 9
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    note = (other / "metrics.jsonl").read_text().replace("extractor x", "extractor y <b>")
    (other / "metrics.jsonl").write_text(note)
    assert main(["compare", str(run), str(other), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["final"] for row in report["runs"]] == [88.0, 88.0]
    assert report["differences"] == {"model.generator.latent_size": [8, 9]}
    assert "cannot be compared" in report["warning"]
    page = Path("compare.html").read_text().replace("<wbr>", "")
    assert "model.generator.latent_size" in page and "extractor y &lt;b&gt;" in page
    assert 'src="http' not in page and page.count("<img") == 2  # one plot per measurement


def test_compare_plots_all_metrics_of_images(run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config.yaml").write_text("seed_everything: 0\n")
    line = {"kimg": 1, "step": 10, "note": "extractor x"} | dict.fromkeys(("sfid", "fid", "kid", *FIGURES), 0.5)
    (tmp_path / "one/metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["compare", str(tmp_path / "one")]) == 0
    page = Path("compare.html").read_text()
    assert page.count("<img") == 7 and "<h2>Density</h2>" in page and "<h2>Coverage of real images</h2>" in page


def test_compare_plots_values_of_one_extractor_per_run(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    measured = [("a", {"fid": 9.0, "kid": 1.0, "mmd": 3.0}), ("b", {"fid": 5.0, "mmd": 2.0})]
    lines = [
        {"step": i, "kimg": i, **metrics, "note": f"extractor {extractor}, 8 generated against 8 real images"}
        for i, (extractor, metrics) in enumerate(measured)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = ComparedRun(RunDirectory(tmp_path), "run")
    assert run.curve("fid") == ([1], [5.0])
    assert run.curve("kid") == ([], [])
    assert run.curve("mmd") == ([0, 1], [3.0, 2.0])  # no extractor


def test_compare_prints_the_settings_of_a_sweep(tmp_path, capsys):
    def print_table(*configs: dict) -> list[list[str]]:
        for number, config in enumerate(configs):
            (tmp_path / f"{number}").mkdir(exist_ok=True)
            (tmp_path / f"{number}/config.yaml").write_text(yaml.safe_dump(config))
        assert main(["compare", *(str(tmp_path / f"{number}") for number in range(len(configs)))]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    def config(seed: int, **model: float) -> dict:
        return {"seed_everything": seed, "model": {"init_args": model | {"seed": seed}}, "trainer": {"devices": seed}}

    table = print_table(config(1, r1_gamma=0.5, width=8), config(2, r1_gamma=2.0, width=8))
    assert [line[-1] for line in table[:3]] == ["model.r1_gamma", "0.5", "2"] and "model.width" not in table[0]
    many = {f"option{i}": 1 for i in range(5)}  # other runs than those of a sweep
    assert "model.option0" not in print_table(config(1, **many), config(2))[0]


def test_compare_rejects_other_directories(refused, tmp_path):
    assert "is not a run directory" in refused("compare", str(tmp_path))


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
