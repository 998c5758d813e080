"""The files that people have: one rule of what is read, for training, comparisons and cutouts."""

import io
import logging
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from masked_photographs import photograph
from PIL import Image

from datamodules import ChanterelleDataModule, FFHQDataModule
from datamodules.images import decoding
from datamodules.images.alpha_masked import read_masked
from datamodules.images.decoding import decode, open_image
from datamodules.images.image_set import open_images
from datamodules.images.listing import list_folder
from datamodules.images.sources import open_source
from trainer.__main__ import main
from utils.errors import InputError

SIDEWAYS = {"exif": Image.Exif()}
SIDEWAYS["exif"][0x0112] = 6


def picture(seed: int = 0, width: int = 16, height: int = 16) -> Image.Image:
    """Yellow in the upper left quarter, smooth elsewhere, so that lossy formats keep it."""
    pixels = np.full((height, width, 3), (40 + 10 * seed % 100, 60, 120), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 220, 20)
    return Image.fromarray(pixels)


def write(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture() if image is None else image).save(path, **options)
    return path


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def training(root, **options) -> FFHQDataModule:
    return FFHQDataModule(root, **{"image_size": 16, "batch_size": 2, "total_kimg": 0.01, **options})


def yellow_corner(image: np.ndarray) -> tuple[int, int]:
    """The corner, (row, column) in {0, 1}, of the yellow quarter of an image (3, H, W)."""
    height, width = image.shape[1:]
    quarters = image.astype(float).reshape(3, 2, height // 2, 2, width // 2).mean((2, 4))
    row, column = np.unravel_index((quarters[0] - quarters[2]).argmax(), (2, 2))
    return int(row), int(column)


def test_links_are_followed(tmp_path, caplog):
    root, elsewhere = tmp_path / "linked_part", tmp_path / "linked_elsewhere"
    for i in range(2):
        write(root / f"{i}.png", picture(i))
    for i in range(4):
        write(elsewhere / "deeper" / f"{i}.png", picture(i + 2))
    (root / "more").symlink_to("../linked_elsewhere", target_is_directory=True)
    names = ["0.png", "1.png", *(f"more/deeper/{i}.png" for i in range(4))]
    assert list_folder(root).names == names and not list_folder(root).left_out
    assert len(training(root).indices) == len(open_images(root)) == 6
    assert not caplog.records


def test_cycles_and_repeated_links_are_counted(tmp_path):
    root = tmp_path / "a" / "root"
    write(root / "z" / "0.png")
    write(tmp_path / "blobs" / "4f2a", format="PNG")  # without a suffix, as a content-addressed store has it
    links = {
        "a": "z",  # a folder below the root, which keeps its own name
        "z/parent": "..",
        "z/itself": "../z",
        "up": "../..",
        "slash": "/",
        "same.png": "z/0.png",
        "blob.JPG": "../../blobs/4f2a",
        "again.jpg": "../../blobs/4f2a",
        "loop": "loop",
        "gone": "nowhere",
        "outside": "../../outside",
    }
    write(tmp_path / "outside" / "1.png")
    (tmp_path / "outside" / "back").symlink_to(root)
    (tmp_path / "outside" / "wide").symlink_to("..")  # would read the neighbours of the linked folder
    write(tmp_path / "neighbour.png")
    for name, target in links.items():
        (root / name).symlink_to(target)
    listing = list_folder(root)
    assert listing.names == ["again.jpg", "outside/1.png", "z/0.png"]
    assert listing.left_out == {
        "linked to a missing file or folder": ["gone", "loop"],
        "linked to an enclosing folder": ["outside/back", "outside/wide", "slash", "up", "z/itself", "z/parent"],
        "read already under another name": ["a", "blob.JPG", "same.png"],
    }


def test_overlapping_links_read_each_file_once(tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    root.mkdir()
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        write(store / name)
    (root / "0 part").symlink_to(store / "a")
    (root / "1 file.png").symlink_to(store / "b" / "2.png")
    (root / "2 all").symlink_to(store)
    listing = list_folder(root)
    assert listing.names == ["0 part/0.png", "0 part/1.png", "1 file.png"]
    assert listing.left_out == {"read already under another name": ["2 all/a", "2 all/b/2.png"]}


def test_broken_links_to_images_are_unreadable_images(tmp_path, caplog):
    write(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to("nowhere.png")
    (tmp_path / "2.png").symlink_to("2.png")
    with pytest.raises(InputError, match=r"2 of 3 images .*: 2 corrupt .* \(1\.png, 2\.png\)"):
        training(tmp_path).prepare_data()
    with pytest.raises(InputError, match=r"2 of 3 images in .* cannot be read: 1\.png, 2\.png;"):
        open_images(tmp_path)
    assert training(tmp_path, on_corrupt="skip").indices.tolist() == [0]
    assert caplog.messages == [f"{tmp_path}: 1 image read; 2 files left out: 2 unreadable (1.png, 2.png)"]


HIDDEN = (
    ".ipynb_checkpoints/0-checkpoint.png",
    "part/.thumbnails/deep/1.png",
    "part/._0.png",
    "__MACOSX/part/0.png",
    "part/@eaDir/0.png",
)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_hidden_files_are_left_out_at_any_depth(tmp_path, caplog, form):
    cutouts = {f"part/{i}.png": encoded(photograph(i), transparency=bytes([0] + [255] * 255)) for i in range(4)}
    hidden = dict.fromkeys(HIDDEN, cutouts["part/0.png"]) | {".DS_Store": b"x", "part/Thumbs.db": b"x"}
    root = tmp_path / ("set.zip" if form == "zip" else ".set")  # the root itself may be hidden
    if form == "zip":
        with zipfile.ZipFile(root, "w") as file:
            for name, content in (cutouts | hidden).items():
                file.writestr(name, content)
    else:
        for name, content in (cutouts | hidden).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    line = (
        f"{root}: 4 images read; 7 files left out: 6 hidden (.DS_Store, .ipynb_checkpoints/0-checkpoint.png, "
        "__MACOSX/part/0.png and 3 more), 1 of other types (.db)"
    )
    assert len(read_masked(root, 16, 0.5)) == 4 and caplog.messages == [line]
    caplog.clear()
    assert len(open_images(root)) == 4 and caplog.messages == [line]
    assert len(open_source(root, 16, 1)) == 4


def test_special_files_are_never_opened(tmp_path):
    write(tmp_path / "0.png")
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    listing = list_folder(tmp_path)
    assert listing.names == ["0.png"] and listing.left_out == {"neither file nor folder": ["1.png", "2.png"]}


READ = {
    "a.png": {},
    "b.JPG": {"quality": 95},
    "c.jfif": {"format": "JPEG", "quality": 95},
    "d.jpe": {"format": "JPEG", "quality": 95},
    "e.webp": {"lossless": True},
    "f.gif": {},
    "g.bmp": {},
    "h.TIFF": {"compression": "tiff_lzw"},
    "i.jp2": {},
    "j.avif": {"quality": 95},
    "k.ppm": {},
    "l.mpo": {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (16, 16))], "quality": 95},
    "m.png": {"format": "JPEG", "quality": 95},  # content and suffix disagree
    "n.jpg": {"format": "WEBP", "lossless": True},
}


@pytest.mark.parametrize("name", READ)
def test_formats_are_read_by_their_content(tmp_path, name):
    write(tmp_path / name, **READ[name])
    expected = np.asarray(picture(), int).transpose(2, 0, 1)
    (batch,) = open_images(tmp_path).batches(1)
    for image in (training(tmp_path).reader[0], batch[0].numpy()):
        assert image.shape == (3, 16, 16) and yellow_corner(image) == (0, 0)
        assert np.abs(image - expected).mean() < 16


def test_documentation_lists_the_suffixes():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [suffix for suffix in decoding.SUFFIXES if f"`{suffix}`" not in text] == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "late.png", "a.webp", "a.tiff", "a.avif", "a.mpo"])
def test_all_readers_apply_the_exif_orientation(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(0, 64, 32)
    if name == "late.png":
        (tmp_path / name).write_bytes(behind_the_pixels(encoded(image), exif))
    else:
        write(tmp_path / name, image, exif=exif.tobytes())
    # where the corner that is stored at the upper left belongs, by the EXIF standard
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    size = (64, 32) if orientation < 5 else (32, 64)
    (batch,) = open_images(tmp_path).batches(1)
    assert batch.shape == (1, 3, size[1], size[0]) and yellow_corner(batch[0].numpy()) == corner
    reader = training(tmp_path, center_crop=True).reader
    assert yellow_corner(reader[0]) == corner
    with pytest.raises(InputError, match=f"images of {size[0]}×{size[1]}; set center_crop"):
        training(tmp_path).prepare_data()


def behind_the_pixels(png: bytes, exif: Image.Exif) -> bytes:
    """Insert an eXIf chunk after the pixels of a PNG, where the standard allows it too."""
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:-12] + chunk + png[-12:]  # before IEND


def test_photographs_held_sideways_are_the_upright_ones(tmp_path):
    for i in range(3):
        write(tmp_path / "upright" / f"{i}.png", picture(i))
        stored = picture(i).transpose(Image.Transpose.ROTATE_90)
        write(tmp_path / "sideways" / f"{i}.png", stored, **SIDEWAYS)
    upright, sideways = (next(open_images(tmp_path / name).batches(3)) for name in ("upright", "sideways"))
    assert (upright == sideways).all()


def test_masks_turn_with_their_images(tmp_path):
    rgba = np.zeros((30, 20, 4), np.uint8)
    rgba[4:24, 5:15] = (200, 100, 50, 255)
    rgba[4:10, 5:15, :3] = 250
    image = Image.fromarray(rgba)
    write(tmp_path / "upright" / "0.png", image)
    write(tmp_path / "sideways" / "0.png", image.transpose(Image.Transpose.ROTATE_90), **SIDEWAYS)
    write(tmp_path / "webp" / "0.webp", image.transpose(Image.Transpose.ROTATE_90), lossless=True, **SIDEWAYS)
    one, *others = (read_masked(tmp_path / name, 32, 0.5) for name in ("upright", "sideways", "webp"))
    assert all((one == other).all() for other in others)


def test_corrupt_exif_does_not_hide_an_image(tmp_path):
    write(tmp_path / "0.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert yellow_corner(training(tmp_path).reader[0]) == (0, 0)


def test_modes(tmp_path):
    deep = Image.fromarray(np.array([[0, 257, 65535, 32896]], np.uint16))
    key = deep.copy()
    palette = Image.new("P", (4, 1), 3)
    palette.putpalette([9, 9, 9] * 256)
    cases = {
        "deep": (encoded(deep), "L", [[0], [1], [255], [128]]),
        "deep with a transparent value": (
            encoded(key, transparency=257),
            "LA",
            [[0, 255], [1, 0], [255, 255], [128, 255]],
        ),
        "palette": (encoded(palette), "RGB", [[9, 9, 9]] * 4),
        "transparent palette": (encoded(palette, transparency=3), "RGBA", [[9, 9, 9, 0]] * 4),
        "bits": (encoded(Image.new("1", (4, 1), 1)), "L", [[255]] * 4),
    }
    for name, (content, mode, expected) in cases.items():
        with open_image(content) as image:
            read = decode(image)
        assert (read.mode, np.asarray(read).reshape(4, -1).tolist()) == (mode, expected), name


def test_inexact_modes_are_refused_by_all(tmp_path):
    write(tmp_path / "0.png")
    write(tmp_path / "1.jpg", picture().convert("CMYK"))
    with pytest.raises(InputError, match=r"1\.jpg has mode CMYK; convert it to 8-bit RGB or grey"):
        training(tmp_path).prepare_data()
    with pytest.raises(InputError, match=r"1 of 2 images .* are not 8-bit RGB .*: 1\.jpg; convert them"):
        open_images(tmp_path, "skip")
    with pytest.raises(InputError, match=r"1 not 8-bit RGB or grey \(1\.jpg\); 1 without transparency \(0\.png\)"):
        read_masked(tmp_path, 16, 0.5, "skip")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_first_frames_are_read_and_reported_once(tmp_path, caplog, suffix):
    decoding._log_first_frame.cache_clear()
    for i in range(2):
        write(tmp_path / f"{i}.{suffix}", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    for _ in range(2):
        assert all(yellow_corner(training(tmp_path).reader[i]) == (0, 0) for i in range(2))
    assert caplog.messages == ["some images are animated or have several pages; only the first frame of each is read"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_truncated_and_empty_files_are_named(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8))
    content = encoded(noise, kind)
    (tmp_path / "0.png").write_bytes(content)
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 corrupt or not of a supported image format \(1\.png, 2\.png\)"):
        training(tmp_path).prepare_data()
    with pytest.raises(InputError, match=r"of 3 images in .* cannot be read: .*2\.png"):
        list(open_images(tmp_path).batches(4))


def test_archives_are_read_or_named(tmp_path, caplog):
    write(tmp_path / "set" / "0.png")
    with zipfile.ZipFile(tmp_path / "set" / "more.zip", "w") as file:
        file.writestr("a/1.png", encoded(picture()))
        file.writestr("a/1.png.txt", b"x")
    assert len(open_images(tmp_path / "set" / "more.zip")) == 1  # as for training
    assert len(open_images(tmp_path / "set")) == 1
    assert caplog.messages[-1].endswith("/set: 1 image read; 1 file left out: 1 of other types (.zip)")
    (tmp_path / "set.tar").write_bytes(b"x" * 600)
    for wrong, message in (
        ("set.tar", "extract it if it is another archive"),
        ("set/0.png", "is a single image; pass"),
    ):
        for read in (open_images, lambda root: read_masked(root, 16, 0.5), lambda root: training(root).reader):
            with pytest.raises(InputError, match=message):
                read(tmp_path / wrong)


def test_flat_thumbnails_of_ffhq_are_recognized(tmp_path, caplog):
    root = tmp_path / "thumbnails128x128"
    for i in (0, 1, 2, 3):
        write(root / f"{i:05d}.png", picture(i, 128, 128))
    for path in (root, tmp_path):
        source = training(path, expected=4).reader.source
        assert source.names == [f"{i:05d}.png" for i in range(4)] and source.size == (128, 128)
    with pytest.raises(InputError, match=r"lacks 1 of 5 images \(00004\.png\); complete the download, or decrease"):
        training(root, expected=5).prepare_data()
    assert len(training(root, expected=3).indices) == 3
    assert caplog.messages[-1].endswith("1 file left out: 1 not among the first 3 of FFHQ (00003.png)")


def cutout(specks: bool) -> Image.Image:
    """A person-like blob, 20 of 40 pixels high, and what background removers leave in the corners."""
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 14:26] = (180, 120, 60, 255)
    pixels[10:30, [13, 26]] = (180, 120, 60, 90)  # a soft edge
    if specks:
        pixels[0, 0, 3], pixels[-1, 0, 3], pixels[0, -1, 3] = 1, 2, 25
        pixels[36:38, 36:38] = (9, 9, 9, 200)
    return Image.fromarray(pixels)


def test_specks_do_not_change_the_frame(tmp_path, caplog):
    write(tmp_path / "clean" / "0.png", cutout(False))
    write(tmp_path / "specks" / "0.png", cutout(True))
    clean, specks = (read_masked(tmp_path / name, 64, 0.5) for name in ("clean", "specks"))
    assert (clean == specks).all()
    assert np.ptp(np.flatnonzero(specks[0, ..., 3].any(1))) + 1 == 32
    assert caplog.messages == [
        f"{tmp_path / 'specks'}: 1 image read; 1 framed without specks around the object (0.png); "
        "--data.framing=exact frames every pixel that is not fully transparent"
    ]
    exact = {name: ChanterelleDataModule(tmp_path / name, 64, framing="exact") for name in ("clean", "specks")}
    heights = {name: np.ptp(np.flatnonzero(each.reference()[0, 0].sum(1) > 99)) + 1 for name, each in exact.items()}
    assert heights["clean"] == 32 and heights["specks"] == 16
    robust = ChanterelleDataModule(tmp_path / "specks", 64)
    assert robust.reference_key != exact["specks"].reference_key


def test_separate_parts_of_an_object_are_kept(tmp_path):
    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[10:50, 10:20] = pixels[10:18, 40:50] = 255  # the smaller has a fifth of the area
    write(tmp_path / "0.png", Image.fromarray(pixels))
    for framing in ("robust", "exact"):
        (framed,) = read_masked(tmp_path, 40, 1.0, framing=framing)
        assert framed[0, 0, 3] == framed[0, -1, 3] == 255


def test_almost_transparent_images_are_refused(tmp_path):
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[3, 4, 3] = 2  # a background remover has removed everything
    write(tmp_path / "0.png", Image.fromarray(pixels))
    with pytest.raises(InputError, match=r"1 almost fully transparent \(no pixel is a tenth opaque\) \(0\.png\)"):
        read_masked(tmp_path, 16, 0.5)


@pytest.mark.usefixtures("unchecked")
def test_invalid_framing_raises(tmp_path):
    with pytest.raises(InputError, match="framing must be robust or exact, got 'loose'"):
        ChanterelleDataModule(tmp_path, framing="loose")


def fifty_photographs(root: Path, elsewhere: Path) -> None:
    """50 images in nested and linked folders, and 9 files of other kinds."""
    kinds = [("png", {}), ("JPG", {}), ("jfif", {"format": "JPEG"}), ("webp", {}), ("tif", {})]
    for i in range(50):
        suffix, options = kinds[i % 5]
        folder = elsewhere if i >= 40 else root / ("2019/summer", "2020", "")[i % 3]
        write(folder / f"{i:02d}.{suffix}", picture(i, 40 + 2 * (i % 4), 36), **options)
    (root / "from the phone").symlink_to(elsewhere)
    (root / "2020" / "all").symlink_to(root)
    write(root / ".thumbnails" / "00.png")
    write(root / "2020" / ".cache" / "x" / "00.png")
    for name in ("._00.png", ".DS_Store", "notes.txt", "a.heic", "b.HEIC", "clip.mov"):
        (root / name).write_bytes(b"x")


def test_fifty_photographs_train_with_one_sentence(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    fifty_photographs(tmp_path / "photos", tmp_path / "phone")
    small = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--data.batch_size=2", "--data.num_workers=0"]
    narrow = [f"--model.init_args.{part}.init_args.channel_base=64" for part in ("generator", "discriminator")]
    arguments = ["fit", "--config=heads.yaml", "--data=data/ffhq.yaml", "--data.image_size=32", *small, *narrow]
    with caplog.at_level(logging.WARNING, "datamodules"):
        assert main([*arguments, "--data.root=photos", "--data.center_crop=true"]) == 0
    assert [r.getMessage() for r in caplog.records if r.name.startswith("datamodules")] == [
        "photos: 50 images read; 9 files left out: 4 hidden (.DS_Store, ._00.png, .thumbnails/00.png and 1 more), "
        "1 linked to an enclosing folder (2020/all), 4 of other types (.heic, .mov, .txt)"
    ]
