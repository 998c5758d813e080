"""``python -m trainer fid`` on directories and caches, complete and corrupt."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images.image_set import open_images
from datamodules.renders.cache import RenderCache
from metrics import fid_between, load_extractor
from trainer.__main__ import main


def pixels(count: int, seed: int, size: int = 16, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def write(folder: Path, images: np.ndarray, suffix: str = ".png") -> Path:
    for i, image in enumerate(images):
        path = folder / f"part{i % 2}" / f"{i:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
    return folder


def cache(folder: Path, images: np.ndarray) -> RenderCache:
    renders = RenderCache(folder, len(images), images.shape[1:], lambda indices: images[indices], "rendering")
    renders.prepare()
    return renders


@pytest.fixture
def folders(workplace) -> list[str]:
    write(workplace / "real", pixels(20, 0))
    write(workplace / "fake", pixels(15, 1) // 2)
    return ["fid", "--real", "real", "--fake", "fake"]


def test_fid_and_kid_of_two_directories(folders, capsys):
    assert main([*folders, "--kid_subset", "10"]) == 0
    out = capsys.readouterr().out.splitlines()
    extractor = load_extractor("renders_small")
    expected = fid_between([torch.from_numpy(pixels(20, 0))], [torch.from_numpy(pixels(15, 1) // 2)], extractor)
    assert out[0] == f"FID {expected:.4f}"
    assert out[1].startswith("sFID ") and float(out[1].split()[1]) > 0
    assert out[2].startswith("KID ") and " ± " in out[2]
    assert out[3] == ("extractor renders_small, 15 generated against 20 real images, KID over 100 subsets of 10")
    assert main([*folders, "--kid_subset=0", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["fid"] == pytest.approx(expected, rel=1e-9)
    assert (line["extractor"], line["real"], line["fake"], line["kid_subset"]) == ("renders_small", 20, 15, 0)
    assert "kid" not in line and "precision" not in line and len(line["checksum"]) == 16


def test_the_default_subset_of_kid_adapts_to_small_sets(folders, refused, workplace, capsys):
    assert main(folders) == 0
    captured = capsys.readouterr()
    assert "KID over 100 subsets of 7" in captured.out
    assert captured.err.strip().splitlines()[-1] == (
        "KID samples subsets of 7 instead of 1,000: there are 15 images; --kid_subset sets it"
    )
    assert "set kid_subset to at most 15" in refused(*folders, "--kid_subset=16")
    write(workplace / "few", pixels(3, 2))
    assert main(["fid", "--real", "real", "--fake", "few"]) == 0
    captured = capsys.readouterr()
    assert "KID is not measured: there are 3 images" in captured.err and "KID" not in captured.out


def test_colour_images_are_compared_by_an_extractor_that_sees_colour(workplace, refused, capsys):
    images = pixels(20, 0, channels=3)
    write(workplace / "real", images)
    write(workplace / "fake", images[:, ::-1])
    command = ["fid", "--real", "real", "--fake", "fake", "--kid_subset=0"]
    assert main([*command, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["extractor"] == "renders_color" and line["fid"] > 0.01
    assert refused(*command, "--extractor=renders_small") == (
        "the images in real have colour, which extractor 'renders_small' does not see; "
        "set extractor to renders_color or imagenet"
    )


def test_grey_images_in_rgb_files_may_be_compared_in_grey(workplace, capsys):
    for folder, seed in (("real", 0), ("fake", 1)):
        write(workplace / folder, pixels(20, seed).repeat(3, 1))
    command = ["fid", "--real", "real", "--fake", "fake", "--kid_subset=0", "--extractor=renders_small"]
    assert main(command) == 0
    assert "extractor renders_small, 20 generated" in capsys.readouterr().out


def test_cache_and_directory_of_the_same_images_have_distance_0(workplace, capsys):
    images = pixels(300, 0)
    cache(workplace / "cache", images)
    write(workplace / "real", images)
    assert torch.equal(torch.cat(list(open_images("cache").batches(7))), torch.from_numpy(images))
    assert main(["fid", "--real", "real", "--fake", "cache", "--kid_subset", "300", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert abs(line["fid"]) < 1e-4 and abs(line["sfid"]) < 1e-4 and line["fake"] == 300
    assert (line["precision"], line["recall"], line["image_coverage"]) == (1, 1, 1) and line["density"] > 1
    assert main(["fid", "--real", "real", "--fake", "cache", "--kid_subset", "0"]) == 0
    printed = capsys.readouterr().out
    assert "\nprecision 1.0000, recall 1.0000\ndensity 1." in printed and ", image coverage 1.0000\n" in printed


def test_gray_16_bit_transparent_and_palette_images_are_converted(workplace):
    folder = workplace / "some"
    folder.mkdir()
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(folder / "deep.png")
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(folder / "gray.JPG")
    assert open_images("some").shape == (1, 4, 4)
    rgba = np.full((4, 4, 4), 255, np.uint8)
    rgba[:2, :, 3] = 0
    Image.fromarray(rgba).save(folder / "alpha.png")
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([255] * 768)
    palette.save(folder / "white.png", transparency=3)
    (folder / ".hidden.png").write_text("")
    (batch,) = open_images("some").batches(9)
    alpha, deep, gray, white = batch
    assert batch.shape == (4, 3, 4, 4)
    assert (deep == 255).all() and (gray == 200).all() and (white == 0).all()
    assert (alpha[:, :2] == 0).all() and (alpha[:, 2:] == 255).all()


def test_incomparable_directories_are_rejected(folders, refused, workplace):
    message = f"no such file or folder: {workplace}/nowhere; pass a folder of images or a ZIP file"
    assert refused("fid", "--real", "nowhere", "--fake", "fake") == message
    (workplace / "empty").mkdir()
    assert refused("fid", "--real", "real", "--fake", "empty").startswith("empty has no images, such as png")
    write(workplace / "large", pixels(3, 0, size=32))
    assert "real are 16×16 and those in large 32×32; make them the same size" in refused(*folders[:4], "large")
    write(workplace / "one", pixels(1, 0))
    assert refused(*folders[:4], "one") == "FID needs at least two images per set, and one contains 1"


def test_mixed_sizes_are_counted_and_named(folders, refused, workplace):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(workplace / "real" / "odd.png")
    assert refused(*folders) == (
        "real has images of 2 sizes, 20 of 16×16 (part0/000.png), 1 of 9×8 (odd.png); resize them to one size"
    )


def test_unreadable_images_are_counted_and_named(folders, refused, workplace):
    (workplace / "fake" / "text.png").write_text("no image")
    (workplace / "fake" / "void.jpg").write_text("")
    assert refused(*folders) == ("2 of 17 images in fake cannot be read: text.png, void.jpg; remove or replace them")


def test_truncated_images_are_all_named(folders, refused, workplace):
    for name in ("part0/004.png", "part1/011.png"):
        file = workplace / "fake" / name
        file.write_bytes(file.read_bytes()[:-60])
    assert "2 of 15 images in fake cannot be read: part0/004.png, part1/011.png;" in refused(*folders, "--kid_subset=0")


def test_incomplete_caches_are_rejected(folders, refused, workplace):
    cache(workplace / "cache", pixels(300, 0))
    second = workplace / "cache" / "00001-of-300.npy"
    second.unlink()
    assert "the renders in cache are incomplete: cache/00001-of-300.npy is missing" in refused(*folders[:4], "cache")
    (workplace / "cache" / "00000-of-300.npy").unlink()
    second.write_bytes(b"")
    assert "cache is not a complete cache of renders" in refused(*folders[:4], "cache")


def test_too_few_images_for_a_kid_subset_are_rejected(folders, refused):
    assert refused(*folders, "--kid_subset=1000") == (
        "KID samples subsets of 1,000 images, but there are 20 real images; "
        "set kid_subset to at most 20, or to 0 for no KID"
    )


def test_invalid_options_are_rejected(folders, refused, workplace):
    assert "required: --fake" in refused("fid", "--real", "real")
    assert "unrecognized arguments: --reel" in refused(*folders, "--reel")
    assert "'one' is neither 0 nor an integer of at least 2" in refused(*folders, "--kid_subset", "one")
    assert "unknown feature extractor 'imagnet'" in refused(*folders, "--kid_subset=0", "--extractor", "imagnet")
    assert "'renders' requires a weights file" in refused(*folders, "--kid_subset=0", "--extractor", "renders")
    (workplace / "other.pth").write_text("other")
    message = refused(*folders, "--kid_subset=0", "--extractor=imagenet", "--extractor_weights=other.pth")
    assert "other.pth has SHA-256 d9298a10d1b0735" in message and "remove it and download them from https://" in message
