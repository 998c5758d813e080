"""The files that people have: one rule of which are read, for training, comparisons and cutouts."""

import logging
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from masked_photographs import photograph
from picture_files import encoded, picture, training, write
from PIL import Image

from datamodules import ChanterelleDataModule
from datamodules.images.alpha_masked import read_masked
from datamodules.images.image_set import open_images
from datamodules.images.listing import list_folder
from datamodules.images.sources import open_source
from trainer.__main__ import main
from utils.errors import InputError


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


def test_members_of_archives_with_backslashes_and_of_one_name(tmp_path, caplog):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, name in enumerate(
            ("a\\0.png", "__MACOSX\\a\\._0.png", "a\\.1.png", "b/2.png", "b/2.png", "e\x1b[31m.txt")
        ):
            file.writestr(name, encoded(picture(i)))
    reader = training(path, center_crop=True).reader
    assert list(map(reader.source.name, range(len(reader)))) == ["a\\0.png", "b/2.png"]
    assert reader[1][:, -1, -1].tolist() == [80, 60, 120]  # the last one of this name
    open_images(path)
    line = (
        "2 images read; 4 files left out: 2 hidden (__MACOSX\\a\\._0.png, a\\.1.png), 1 of other types (.txt), "
        "1 replaced by a later one of the same name (b/2.png)"
    )
    assert caplog.messages[-1].endswith(line)


def test_control_characters_of_file_names_do_not_reach_the_terminal(tmp_path, caplog):
    write(tmp_path / "0.png")
    write(tmp_path / ".e\nvil\x1b[31m.png")
    open_images(tmp_path)
    assert caplog.messages[-1].endswith("1 file left out: 1 hidden (.e vil [31m.png)")


def test_special_files_are_never_opened(tmp_path):
    write(tmp_path / "0.png")
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    listing = list_folder(tmp_path)
    assert listing.names == ["0.png"] and listing.left_out == {"neither file nor folder": ["1.png", "2.png"]}


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


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 93)], ids=["encrypted", "zstandard"])
def test_archives_that_must_be_extracted_are_refused_whole(tmp_path, offset, value):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("0.png", encoded(picture()))
    content = bytearray(path.read_bytes())
    content[offset] = value  # in the member's own header, and in the directory
    content[content.rindex(b"PK\x01\x02") + 2 + offset] = value
    path.write_bytes(content)
    for read in (open_images, lambda root: read_masked(root, 16, 0.5, "skip"), lambda root: training(root).reader):
        with pytest.raises(InputError, match=r"encrypted, or uses a compression .*; extract it"):
            read(path)


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
    with pytest.raises(InputError, match="framing must be one of robust, exact, got 'loose'"):
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
