"""Photographs with a transparent background: synthetic ones, and the real ones if they are available."""

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_photographs import photograph, save, write_photographs
from PIL import Image

from datamodules import ChanterelleDataModule
from datamodules.images.alpha_masked import LUMA, frame, read_masked, read_rgba, unify_intensity
from renderers import AbsorptionRenderer, ViewDistribution
from trainer.__main__ import main
from utils.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data" / "chanterelle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


def data(root, **options) -> ChanterelleDataModule:
    return ChanterelleDataModule(root, **{"image_size": 32, "batch_size": 4, "total_kimg": 0.012, **options})


def test_palette_transparency_becomes_black(folder):
    with Image.open(folder / "train" / "0.png") as image:
        assert image.mode == "P" and "transparency" in image.info
        assert (
            np.asarray(image.convert("RGB"))[0, 0].tolist() == [255] * 3
        )  # converting to RGB directly would show white
    pixels = read_rgba((folder / "train" / "0.png").read_bytes())
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    for channels in (1, 3):
        images = data(folder, channels=channels, fill=1.0).reference()
        assert images.shape == (6, channels, 32, 32) and images.dtype == torch.uint8
        assert (images[..., 0, 0] == 0).all() and (images[:, :, 16, 16].amax(1) > 60).all()


@pytest.mark.parametrize("fill", [0.5, 0.75, 1.0])
@pytest.mark.parametrize(("width", "height"), [(60, 80), (33, 17), (100, 100), (5, 3)])
def test_frame_centers_and_scales_the_object(width, height, fill):
    solid = np.full((height + 9, width + 7, 4), 255, np.uint8)
    solid[..., 3] = 0
    solid[2 : 2 + height, 6 : 6 + width, 3] = 255  # the margins are cropped
    framed = frame(solid, 64, fill).astype(float) / 255
    assert (framed[..., 0] == framed[..., 3]).all()  # white, premultiplied
    scale = fill * 64 / max(width, height)
    assert framed[..., 3].sum(1).max() == pytest.approx(width * scale, abs=0.15)
    assert framed[..., 3].sum(0).max() == pytest.approx(height * scale, abs=0.15)
    for flipped in (framed[::-1], framed[:, ::-1]):
        assert np.abs(flipped - framed).max() <= 1 / 255


def test_frame_averages_over_areas():
    """Compares with block means, and with Pillow's box filter on premultiplied colour."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (96, 96, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (random.random((96, 96)) < 0.7)
    pixels[[0, -1, 40, 40], [40, 40, 0, -1], 3] = 255  # the mask touches all sides
    framed = frame(pixels, 32, 0.5).astype(int)
    assert not framed[:8].any() and not framed[:, -8:].any()
    solid = pixels.astype(float)
    solid[..., :3] *= solid[..., 3:] / 255
    blocks = solid.reshape(16, 6, 16, 6, 4).mean((1, 3))
    assert np.abs(framed[8:24, 8:24] - blocks).max() <= 0.51
    box = Image.fromarray(pixels, "RGBA").convert("RGBa").resize((16, 16), Image.Resampling.BOX)
    assert np.abs(framed[8:24, 8:24] - np.asarray(box).astype(int)).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mean", [None, 0.3, 0.8])
def test_mean_intensity_is_unified_by_addition(folder, channels, mean):
    framed = read_masked(folder, 64, 0.5)
    alpha = framed[..., 3].astype(float) / 255

    def intensities(images):
        values = images.astype(float).transpose(0, 2, 3, 1) / 255
        grey = values @ LUMA if channels == 3 else values[..., 0]
        return grey.sum((1, 2)) / alpha.sum((1, 2))

    unified = unify_intensity(framed, channels, mean)
    before = framed[..., :3].transpose(0, 3, 1, 2)
    if channels == 1:
        before = (before.transpose(0, 2, 3, 1) @ LUMA)[:, None]
    target = intensities(before).mean() if mean is None else mean
    assert np.ptp(intensities(before)) > 0.1
    assert intensities(unified) == pytest.approx(np.full(6, target), abs=2e-3)
    assert not unified.transpose(1, 0, 2, 3)[:, alpha == 0].any()  # unchanged outside the mask
    if mean is None:  # almost nothing is clipped, so one constant per image is added to all colours
        core = (alpha == 1) & (unified.min(1) > 0) & (unified.max(1) < 255)
        added = (unified.astype(float) - before).transpose(0, 2, 3, 1)
        for one, inside in zip(added, core, strict=True):
            assert np.ptp(one[inside]) <= 2


def test_all_splits_use_the_distinct_images(folder):
    module = data(folder)
    module.prepare_data()
    assert module.reference_images == 6 and module.kid_subset == 3
    train, val, test = (
        loader().dataset.tensors[0]
        for loader in (module.train_dataloader, module.val_dataloader, module.test_dataloader)
    )
    assert torch.equal(train, val) and torch.equal(val, test) and torch.equal(val, module.reference())
    assert len(module.train_dataloader()) == module.steps == 3
    (batch,) = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    assert batch.shape == (4, 1, 32, 32) and batch.dtype == torch.float32 and 0.3 < batch.max() <= 1


def test_mirrored_images_are_only_for_training(folder):
    plain, module = data(folder), data(folder, mirror=True)
    images = module.train_dataloader().dataset.tensors[0]
    assert len(images) == 12 and torch.equal(images[6:], images[:6].flip(-1))
    assert not torch.equal(images[:6], images[6:])
    assert torch.equal(module.reference(), plain.reference()) and module.reference_key == plain.reference_key
    assert plain.reference_key != data(folder, mean_intensity=0.4).reference_key


def test_held_out_images_are_not_for_training(folder):
    module = data(folder, held_out=2, mirror=True)
    images, (train, held_out) = module.reference(), module.sample_images(10)
    assert torch.equal(held_out, images[[0, 3]]) and torch.equal(train, images[[1, 2, 4, 5]])
    assert torch.equal(module.train_dataloader().dataset.tensors[0], torch.cat([train, train.flip(-1)]))
    assert len(images) == module.reference_images == 6 and len(module.sample_images(1)[0]) == 1
    assert data(folder).sample_images(10) is None
    with pytest.raises(InputError, match="has 6 images, so held_out 6 leaves none for training; decrease it"):
        data(folder, held_out=6).train_dataloader()


def test_images_do_not_depend_on_the_file_mode(folder, tmp_path):
    for file in (folder / "train").iterdir():
        with Image.open(file) as image:
            image.convert("RGBA").save(tmp_path / file.name)
    assert torch.equal(data(tmp_path).reference(), data(folder / "train").reference())
    grey = Image.open(tmp_path / "0.png").convert("LA")
    grey.save(tmp_path / "grey.png")
    assert data(tmp_path).reference_images == 7


def test_invalid_arguments_raise(folder):
    with pytest.raises(
        InputError, match="image_size is 32 for the photographs but 16 for the renderer; set both to the same value"
    ):
        data(folder, renderer=AbsorptionRenderer(16), views=ViewDistribution())
    for name, value in (("fill", 0.0), ("fill", 1.5), ("mean_intensity", 1.0), ("image_size", 0)):
        with pytest.raises(InputError, match=name):
            data(folder, **{name: value})


def refused(root) -> str:
    with pytest.raises(InputError) as error:
        data(root).prepare_data()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_without_images_raises(tmp_path):
    fix = "set root to a folder of images or a ZIP file"
    assert refused(tmp_path / "nowhere") == f"no such file or folder: {tmp_path / 'nowhere'}; {fix}"
    (tmp_path / "notes.txt").write_text("no image")
    assert refused(tmp_path / "notes.txt").endswith("and pass the folder")
    assert f"{tmp_path} has no images, such as png, jpg or webp (1 file left out: 1 of other types (.txt))" in refused(
        tmp_path
    )


def test_unusable_images_are_named_and_counted(tmp_path):
    write_photographs(tmp_path, 3)
    whole = (tmp_path / "train" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    photograph(7).convert("RGB").save(tmp_path / "solid.png")
    photograph(8).convert("RGB").convert("RGBA").save(tmp_path / "solid_rgba.png")
    photograph(9).convert("RGB").save(tmp_path / "photo.jpg")
    Image.new("RGBA", (9, 9), (255, 255, 255, 0)).save(tmp_path / "nothing.png")
    (tmp_path / ".hidden.png").write_bytes(b"junk")
    assert refused(tmp_path) == (
        f"6 of 13 images in {tmp_path} are unusable: 2 unreadable (cut.png, empty.png); "
        "3 without transparency (photo.jpg, solid.png, solid_rgba.png); 1 fully transparent (nothing.png); "
        "remove or replace them"
    )


def test_specks_that_vanish_count_as_transparent(tmp_path):
    pixels = np.zeros((2000, 2000, 4), np.uint8)
    pixels[0, 0] = pixels[-1, -1] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "specks.png")
    assert "1 fully transparent (specks.png)" in refused(tmp_path)


def test_opaque_palette_raises(tmp_path):
    photograph(0).save(tmp_path / "a.png", transparency=bytes([255] * 256))
    assert "1 of 1 images" in refused(tmp_path) and "1 without transparency (a.png)" in refused(tmp_path)


def test_long_lists_of_files_are_abbreviated(tmp_path):
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"junk")
    assert "8 unreadable (0.png, 1.png, 2.png, 3.png, 4.png and 3 more)" in refused(tmp_path)


def test_command_line_prints_one_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save(photograph(0), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    small = ["--trainer.fast_dev_run=2", "--trainer.accelerator=cpu", "--data.batch_size=2"]
    arguments = ["--config=chanterelle_32.yaml", "--model=model/dcgan_32.yaml", *small]
    assert main(["fit", *arguments, "--data.root=nowhere"]) == 2
    assert f"error: no such file or folder: {tmp_path}/nowhere; set root to" in capfd.readouterr().err
    assert main(["fit", *arguments, "--data.root=."]) == 2
    assert "error: 1 of 2 images in . are unusable: 1 unreadable (b.png); remove" in capfd.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="the Chanterelle photographs are not available")
def test_real_photographs():
    files = sorted(REAL.rglob("*.png"))
    assert len(files) == 74
    for file in files[:3]:
        with Image.open(file) as image:
            assert image.mode == "P" and "transparency" in image.info
        assert set(np.unique(read_rgba(file.read_bytes())[..., 3])) == {0, 255}  # binary alpha
    module = ChanterelleDataModule(REAL)
    images = module.reference().float() / 255
    assert images.shape == (62, 1, 128, 128) and module.kid_subset == 31
    assert not images[:, :, :31].any() and not images[..., -31:].any()  # half the frame, as a 64³ grid
    lit = (images > 0).float()
    means = images.sum((1, 2, 3)) / lit.sum((1, 2, 3))
    assert (
        means.mean() == pytest.approx(0.58, abs=0.03) and means.std() < 0.02
    )  # partly covered edge pixels count fully here
