"""``invert``: latents and viewpoints from images."""

import copy
import csv
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import small_iggan
import torch
import trimesh
import yaml
from PIL import Image

from datamodules import HeadsDataModule
from renderers import Camera, LitAbsorptionRenderer, OpenGLRenderer, ViewDistribution, VoxelGrid
from trainer.__main__ import main
from trainer.inversion.models import InvertibleGenerator
from trainer.inversion.optimization import Candidates, Targets, image_errors, opengl_errors, optimize
from trainer.inversion.starts import StartBank, nearest_latents
from trainer.inversion.targets import plain_foreground, read_items
from trainer.inversion.truth import HeadTruth, VoxelTruth, view_errors
from utils.errors import InputError

QUICK = ("--steps", "4", "--starts", "2", "--samples", "4")


class Chairs(InvertibleGenerator):
    """Seats with a back, of a width, a height of the seat and a height of the back that are the latent."""

    image_size, channels, size = 32, 1, 16
    views = ViewDistribution((0.0, 360.0), (0.0, 40.0))

    def __init__(self) -> None:
        self.lit, self.opengl = LitAbsorptionRenderer(32), OpenGLRenderer(32, backend="moderngl")

    def occupancy(self, latent):
        axis = (torch.arange(16) + 0.5) / 16 - 0.5
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        width, seat, back = (0.28 + 0.08 * latent.tanh()).T.view(3, -1, 1, 1, 1)

        def inside(*distances):
            return math.prod(torch.sigmoid(40 * d) for d in distances)

        solid_seat = inside(width - x.abs(), width - z.abs(), seat - 0.3 - y, y + 0.4)
        solid_back = inside(width - x.abs(), width - z.abs(), -z - width + 0.15, back + 0.1 - y, y + 0.4)
        return (1 - (1 - solid_seat) * (1 - solid_back))[:, None]

    def sample(self, count, generator):
        return torch.randn(count, 3, generator=generator)

    def constrain(self, latent):
        return latent.clamp(-3, 3)

    def penalty(self, latent):
        return latent.new_zeros(len(latent))

    def render(self, latent, camera):
        return self.lit(VoxelGrid(self.occupancy(latent)), camera)

    def scene(self, latent):
        return VoxelGrid(self.occupancy(latent)).binarize()

    def solids(self, latent):
        return self.scene(latent).occupancy[:, 0].bool()

    def verify(self, latent, camera):
        views = len(camera) // len(latent)
        return self.opengl(VoxelGrid(self.scene(latent).occupancy.repeat_interleave(views, 0)), camera)


@pytest.fixture(scope="module")
def chairs():
    """A model, three latents, their viewpoints and their images."""
    model = Chairs()
    latent = torch.tensor([[1.0, 0.5, 1.5], [-1.0, 0.0, -0.5], [0.0, -1.0, 1.0]])
    camera = Camera.orbit([20.0, 140.0, 290.0], [15.0, 30.0, 25.0])
    rendering = model.verify(latent, camera)
    return model, latent, camera, Targets(rendering.image, rendering.alpha, torch.ones(3))


def test_optimization_recovers_viewpoint_and_shape(chairs):
    model, latent, camera, targets = chairs
    starts = StartBank.generate(model, 12, 4).nearest(targets)
    assert starts.azimuth.shape == (3, 4)
    assert all((starts.azimuth >= 90 * s)[:, s].all() and (starts.azimuth < 90 * s + 90)[:, s].all() for s in range(4))
    ticks = []
    found, error, path = optimize(model, targets, starts, 48, observe=lambda: ticks.append(1))
    assert len(ticks) == 48 and len(found.latent) == 3 and path.azimuth.shape[1] == 25
    optimized = Camera(
        path.azimuth[:, -2], path.elevation[:, -2]
    )  # the last moment is the winner, which may be its start
    assert view_errors(optimized, camera).max() < 8
    assert error.max() < 0.08  # of solid voxels, which move in steps of 1/16
    start = Candidates(path.latent[:, :1], path.azimuth[:, :1], path.elevation[:, :1])
    assert (error <= opengl_errors(model, targets, start)[:, 0]).all()
    solids = model.solids(latent)
    overlap = (model.solids(found.latent[:, 0]) & solids).flatten(1).sum(1) / (
        model.solids(found.latent[:, 0]) | solids
    ).flatten(1).sum(1)
    assert overlap.min() > 0.7


def test_known_viewpoints_stay_and_the_latent_is_found(chairs):
    model, _, camera, targets = chairs
    bank = torch.tensor([[-2.0, -2.0, -2.0], [2.0, 2.0, 2.0], [2.0, -2.0, 2.0]])
    starts = nearest_latents(model, bank, targets, camera, 2)
    before = image_errors(model.verify(starts.latent[:, 0], camera), targets)
    found, error, _ = optimize(model, targets, starts, 24, fixed_view=True)
    assert torch.equal(found.azimuth[:, 0], camera.azimuth) and torch.equal(found.elevation[:, 0], camera.elevation)
    assert error.mean() < 0.6 * before.mean()


def test_the_winner_is_chosen_by_opengl(chairs, monkeypatch):
    model, latent, camera, targets = chairs
    right = Candidates(latent[:, None], camera.azimuth[:, None], camera.elevation[:, None])
    wrong = Candidates(-latent[:, None], camera.azimuth[:, None] + 90, camera.elevation[:, None])
    pair = Candidates(*(torch.cat([getattr(x, n) for x in (wrong, right)], 1) for n in vars(right)))
    monkeypatch.setattr("trainer.inversion.optimization.LATENT_RATE", 0.0)
    monkeypatch.setattr("trainer.inversion.optimization.ANGLE_RATE", 0.0)
    found, error, _ = optimize(model, targets, pair, 1)
    assert torch.equal(found.latent, right.latent) and error.max() < 1e-6


def test_without_a_silhouette_only_colours_are_compared(chairs):
    model, latent, camera, targets = chairs
    black = Targets(targets.image, torch.zeros_like(targets.alpha), torch.zeros(3))
    assert image_errors(model.verify(latent, camera), black).max() < 1e-6
    assert image_errors(model.verify(latent, camera), Targets(black.image, black.alpha, torch.ones(3))).min() > 1


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the small IG-GAN, saved before its first step, whose shapes are blobs at a low threshold."""
    folder = tmp_path_factory.mktemp("runs") / "small" / "001"
    folder.mkdir(parents=True)
    model = copy.deepcopy(small_iggan.CONFIG)
    model["init_args"]["threshold"] = 0.1
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3, "model": model}))
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    trainer = small_iggan.trainer(folder)
    trainer.strategy.connect(small_iggan.iggan())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return folder


@pytest.fixture
def photos(workplace) -> Path:
    """Three images of 32²: a disc on white, one with transparency, one on black."""
    folder = workplace / "photos"
    (folder / "more").mkdir(parents=True)
    y, x = np.mgrid[:32, :32] - 15.5
    disc = (x**2 + y**2 < 64)[..., None]
    Image.fromarray(np.where(disc, 120, 255).astype(np.uint8).repeat(3, 2)).save(folder / "a.png")
    transparent = np.concatenate([np.full((32, 32, 3), 90), 255 * disc], 2).astype(np.uint8)
    Image.fromarray(transparent).save(folder / "b.png")
    Image.fromarray(np.where(disc, 200, 0).astype(np.uint8)[..., 0]).save(folder / "more" / "c.png")
    return folder


def test_files_of_every_image_are_written_and_a_rerun_does_nothing(run, photos, workplace, capsys, monkeypatch):
    argv = ["invert", "--run_dir", str(run), "--images", "photos", "--output", "out", *QUICK]
    assert main(argv) == 0
    assert "more/c.png" in capsys.readouterr().out
    out = workplace / "out"
    for stem in ("a", "b", "more_c"):
        assert len(trimesh.load(out / f"{stem}.glb", force="mesh").faces) > 0
        assert Image.open(out / f"{stem}.png").width > 3 * Image.open(out / f"{stem}.png").height
        assert Image.open(out / f"{stem}.gif").n_frames > 36
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a.png", "b.png", "more/c.png"]
    assert all(0 <= float(row["azimuth"]) < 360 and -30 <= float(row["elevation"]) <= 60 for row in rows)

    (out / "b.json").unlink()  # as after an interruption
    kept, table = (out / "a.json").stat().st_mtime_ns, (out / "table.csv").read_text()
    assert main(argv) == 0
    assert (out / "a.json").stat().st_mtime_ns == kept and (out / "b.json").is_file()
    assert (out / "table.csv").read_text() == table
    monkeypatch.setattr("trainer.commands.invert.optimize", None)  # nothing is left to do
    assert main(argv) == 0
    with pytest.raises(TypeError):  # other settings are other results
        main([*argv, "--steps", "5"])


def test_masks_and_known_viewpoints(run, photos, workplace):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save("blank.png")
    masks = workplace / "masks"
    (masks / "more").mkdir(parents=True)
    for name in ("a", "b", "more/c"):
        square = np.zeros((32, 32), np.uint8)
        square[4:28, 4:28] = 255
        Image.fromarray(square).save(masks / f"{name}.png")
    Path("views.csv").write_text("name,azimuth,elevation\na.png,10,5\nb.png,350,-5\nmore/c.png,90,20\nother.png,0,0\n")
    argv = ["invert", "--run_dir", str(run), "--images", "photos", "--masks", "masks", "--views", "views.csv"]
    assert main([*argv, "--film", "none", "--output", "out", *QUICK]) == 0
    found = [json.loads((workplace / "out" / f"{stem}.json").read_text()) for stem in ("a", "b", "more_c")]
    assert [(round(r["azimuth"]), round(r["elevation"])) for r in found] == [(10, 5), (350, -5), (90, 20)]
    assert not (workplace / "out" / "a.gif").exists()
    items = read_items(photos, 16, 1, masks=masks)
    assert all(item.alpha is not None and item.alpha.sum() == 144 for item in items)  # 12² of 16²


@pytest.mark.parametrize("mode", ("L", "1", "P", "LA", "RGBA", "alpha"))
def test_masks_are_white_or_opaque_where_the_object_is(photos, workplace, mode):
    """An alpha channel that is opaque everywhere says nothing: many programs save black and white with one."""
    square = np.zeros((32, 32), np.uint8)
    square[4:28, 4:28] = 255
    image = Image.fromarray(square)
    if mode == "alpha":  # a cutout of a dark object
        image = Image.merge("LA", (Image.new("L", (32, 32), 20), image))
    (workplace / "masks" / "more").mkdir(parents=True)
    for name in ("a", "b", "more/c"):
        (image if mode == "alpha" else image.convert(mode)).save(workplace / "masks" / f"{name}.png")
    items = read_items(photos, 16, 1, masks=workplace / "masks")
    assert all(item.alpha is not None and item.alpha.sum() == 144 for item in items)


@pytest.mark.parametrize("kind", ["mask", "alpha"])
@pytest.mark.parametrize("value", [0, 1, 25])  # 1: masks of segmentation often are 0 and 1
@pytest.mark.parametrize("fill", [None, 0.5])
def test_silhouettes_that_are_almost_empty_are_refused(photos, workplace, kind, value, fill):
    square = np.zeros((32, 32), np.uint8)
    square[4:28, 4:28] = value
    mask = Image.fromarray(square)
    image = Image.new("RGB", (32, 32), (90, 90, 90))
    if kind == "alpha":
        image.putalpha(mask)
    image.save("image.png")
    Path("masks").mkdir()
    mask.save("masks/image.png")
    with pytest.raises(
        InputError, match=rf"image\.png has an empty silhouette: it is at most {value}, and must be 255"
    ):
        read_items(Path("image.png"), 16, 1, masks=Path("masks") if kind == "mask" else None, fill=fill)


def test_images_of_one_colour_are_refused(workplace):
    Image.new("RGB", (32, 32), (255, 0, 0)).save("image.png")
    with pytest.raises(InputError, match=r"image\.png has one colour only, so it shows no object; replace them"):
        read_items(Path("image.png"), 16, 1)


def test_several_masks_of_an_image_are_refused(photos):
    Path("masks").mkdir()
    for suffix in ("png", "bmp"):
        Image.new("L", (32, 32), 255).save(f"masks/a.{suffix}")
    with pytest.raises(InputError, match=r"a\.png has several masks \(a\.bmp, a\.png\); replace them"):
        read_items(photos / "a.png", 16, 1, masks=Path("masks"))


def test_names_that_are_not_utf8_are_escaped(run, photos, workplace, capsys):
    (photos / "a.png").rename(photos / os.fsdecode(b"caf\xe9.png"))
    argv = ["invert", "--run_dir", str(run), "--images", "photos", "--output", "out", "--film", "none", *QUICK]
    assert main(argv) == 0
    assert r"caf\udce9.png" in capsys.readouterr().out
    with Path("out/table.csv").open(encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["b.png", r"caf\udce9.png", "more/c.png"]


def test_silhouettes_of_files(photos):
    items = read_items(photos, 32, 3)
    assert all(item.alpha is not None for item in items)
    areas = [int(item.alpha.sum()) for item in items]
    assert len(set(areas)) == 1 and 180 < areas[0] < 220
    assert items[0].image[:, 0, 0].tolist() == [0, 0, 0]  # white becomes black
    assert items[0].image[:, 16, 16].tolist() == pytest.approx([120 / 255] * 3)
    framed = read_items(photos, 32, 1, fill=0.75)
    assert framed[0].alpha.amax(1).sum() == 24
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert plain_foreground(noise) is None


def test_unusable_images_are_named(run, photos, refused, capsys):
    (photos / "broken.png").write_bytes(b"no image")
    Image.linear_gradient("L").resize((20, 32)).save(photos / "wide.png")
    argv = ["invert", "--run_dir", str(run), "--images", "photos", "--output", "out", "--film", "none", *QUICK]
    error = refused(*argv)
    assert "2 of 5 images" in error and "broken.png is corrupt" in error and "wide.png is 20×32, not square; " in error
    assert not Path("out").exists()
    assert main([*argv, "--on_corrupt", "skip"]) == 0
    assert "broken.png" not in Path("out/table.csv").read_text() and "more/c.png" in Path("out/table.csv").read_text()


def test_the_remedy_for_images_that_are_not_square_is_named_where_it_applies(photos):
    Image.fromarray(np.pad(np.full((8, 20), 90, np.uint8), 8)).save(photos / "masked.png")
    with pytest.raises(InputError, match=r"masked\.png is 36×24, not square \(pass --fill 0\.5\); replace them"):
        read_items(photos, 16, 1)
    assert len(read_items(photos, 16, 1, fill=0.5)) == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--images", "photos", "--output", "photos"),
            "--images photos is in photos, where its files could be replaced",
        ),
        (("--images", "photos/a.png", "--output", "photos"), "--images photos/a.png is in photos"),
        (
            ("--images", "photos", "--masks", "masks", "--output", "masks/../masks"),
            "--masks masks is in masks/../masks",
        ),
        (("--images", "photos", "--output", "."), "report.json exists and is not a report of invert"),
    ],
)
def test_invert_replaces_neither_its_inputs_nor_files_of_another_kind(run, photos, refused, argv, message):
    Path("report.json").write_text("{}")
    Path("masks").mkdir()
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert message in refused("invert", "--run_dir", str(run), *argv)
    assert files == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "either --images or --held_out"),
        (("--images", "nowhere"), "/nowhere; pass a folder of images or a ZIP file"),
        (("--images", "photos", "--held_out", "2"), "either --images or --held_out"),
        (("--images", "photos", "--masks", "photos/more"), "a.png has no mask"),
        (("--images", "photos", "--views", "views.csv"), "views.csv, line 2"),
        (("--images", "photos", "--known_views"), "--known_views is for --held_out"),
        (("--held_out", "2", "--fill", "0.5"), "are for --images"),
        (("--images", "photos", "--data.nonsense=1"), "--data.nonsense is for --held_out; omit it with --images"),
        (("--images", "reports"), "Report.png has the output report.json, which is that of all images; rename it"),
    ],
)
def test_invalid_options_are_named(run, photos, refused, argv, message):
    Path("views.csv").write_text("name,azimuth,elevation\na.png,ten,5\n")
    Path("reports").mkdir()
    shutil.copy("photos/a.png", "reports/Report.png")
    assert message in refused("invert", "--run_dir", str(run), "--output", "out", *argv)


@pytest.mark.parametrize("name", ["a.glb", "b.png", "more_c.json"])
def test_invert_replaces_no_file_in_its_output_folder(run, photos, refused, name):
    Path("out").mkdir()
    (Path("out") / name).write_text("mine")
    error = refused("invert", "--run_dir", str(run), "--images", "photos", "--output", "out", "--film", "none", *QUICK)
    assert error == f"out/{name} exists and is not a file written by unrender; pass another --output"
    assert [path.name for path in Path("out").iterdir()] == [name]


def test_contradicting_viewpoints_are_named(run, photos, refused):
    Path("views.csv").write_text("name,azimuth,elevation\na.png,10,5\na.png,10,5\na.png,20,5\n")
    argv = ["invert", "--run_dir", str(run), "--images", "photos", "--views", "views.csv"]
    assert "--views views.csv, line 4: a.png has another viewpoint before" in refused(*argv)


def test_lacking_viewpoints_are_named(run, photos, refused):
    Path("views.csv").write_text("name,azimuth,elevation\na.png,10,5\n")
    assert "lacks 2 images: b.png, more/c.png" in refused(
        "invert", "--run_dir", str(run), "--images", "photos", "--views", "views.csv"
    )


def test_true_voxels_have_no_error_however_the_set_is_rotated():
    truth = VoxelTruth(small_iggan.iggan(), small_iggan.renders(), 6)
    assert truth.items[0].alpha.sum() > 0
    exact = truth.measure(truth.solids, truth.camera)
    assert truth.quarter == 0
    assert exact["iou"].min() == exact["camera_iou"].min() == 1
    assert exact["view_error"].max() < 0.1
    turned = truth.measure(truth.solids.rot90(1, (1, 3)), Camera(truth.camera.azimuth + 90, truth.camera.elevation))
    assert truth.quarter == 3
    assert turned["iou"].min() == 1 and turned["camera_iou"].min() > 0.95 and turned["view_error"].max() < 0.1
    assert torch.allclose(turned["chamfer"], exact["chamfer"], atol=5e-4)
    # A wrong viewpoint leaves the shape as it is in the object frame.
    wrong = truth.measure(truth.solids, Camera(truth.camera.azimuth + 40, truth.camera.elevation))
    assert wrong["iou"].min() == 1 and wrong["camera_iou"].mean() < 0.7 and wrong["view_error"].min() > 25
    empty = truth.measure(torch.zeros_like(truth.solids), truth.camera)
    assert empty["iou"].max() == 0 and empty["chamfer"].isnan().all()


def test_yardsticks_of_voxels():
    data = small_iggan.renders()
    truth = VoxelTruth(small_iggan.iggan(), data, 3)
    truth.items, truth.camera = truth.items[:1] * 3, truth.camera
    images, solids, camera = data.posed_images(True, range(3))
    truth.items = [copy.copy(item) for item in truth.items]
    for item, image in zip(truth.items, images, strict=True):  # held-out images that are training images
        object.__setattr__(item, "image", image)
    truth.solids, truth.camera = solids, camera
    figures = truth.yardsticks()
    assert figures["nearest training image"]["iou"].min() == 1
    assert figures["nearest training image"]["view_error"].max() < 0.1
    assert 0 < figures["mean shape"]["iou"].mean() < 1 and figures["mean shape"]["view_error"].max() < 0.1


def test_true_heads_have_no_error():
    truth = HeadTruth(HeadsDataModule(image_size=16, images=6, reference_images=4), 3)
    exact = truth.measure(truth.meshes, truth.camera)
    assert exact["iou"].min() == exact["camera_iou"].min() == 1
    assert exact["camera_chamfer"].max() < 1e-6 and exact["view_error"].max() < 0.1
    wrong = truth.measure(truth.meshes, Camera(-truth.camera.azimuth, truth.camera.elevation, truth.camera.fov))
    assert wrong["camera_chamfer"].mean() > 10 * exact["camera_chamfer"].mean().clamp(min=1e-6)
    figures = truth.yardsticks()
    assert figures["mean shape"]["iou"].mean() > 0.5
    assert figures["nearest training image"]["view_error"].mean() > 0
