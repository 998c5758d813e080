"""All formats of FFHQ, with small synthetic instances, and real faces if they are available."""

import io
import pickle
import sys
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from datamodules import FFHQDataModule
from datamodules.images.reader import ImageReader
from datamodules.images.sources import ImageError, open_source
from utils.errors import InputError

FACES = Path(__file__).parents[3] / "shared" / "data" / "faces_orl"
COUNT = 7


def pixels(number: int, size: int = 128) -> np.ndarray:
    """A colour that identifies the number, plus noise that identifies each pixel."""
    rng = np.random.default_rng(number)
    return (rng.integers(0, 200, (1, 1, 3)) + rng.integers(0, 56, (size, size, 3))).astype(np.uint8)


def png(array: np.ndarray, mode: str | None = None, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, kind)
    return file.getvalue()


def write_ffhq(root: Path, numbers=range(COUNT), size: int = 128) -> Path:
    folder = root / {128: "thumbnails128x128", 1024: "images1024x1024"}[size]
    for i in numbers:
        path = folder / f"{i // 1000 * 1000:05d}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels(i, size)))
    (folder / "LICENSE.txt").write_text("CC")
    return root


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
        file.writestr("dataset.json", '{"labels": null}')
    return path


def stylegan_names(contents: list[bytes]) -> dict[str, bytes]:
    return {f"{i // 1000:05d}/img{i:08d}.png": content for i, content in enumerate(contents)}


def write_lmdb(root: Path, contents: list[bytes], size: int = 128, length: bytes | None = None) -> Path:
    with lmdb.open(str(root), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for i, content in enumerate(contents):
            transaction.put(f"{size}-{i:05d}".encode(), content)
        transaction.put(b"length", str(len(contents)).encode() if length is None else length)
    return root


def shadow(folder: Path, name: str) -> Path:
    """A folder that makes a package fail to import in processes with it on their path."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\")")
    return folder


def data(root, **options) -> FFHQDataModule:
    small = {"image_size": 32, "expected": COUNT, "batch_size": 4, "total_kimg": 0.012}
    return FFHQDataModule(root, **{**small, **options})


def all_images(module: FFHQDataModule) -> np.ndarray:
    return np.stack([module.reader[i] for i in range(len(module.reader))])


def test_order_and_content_do_not_depend_on_the_format(tmp_path):
    contents = [png(pixels(i)) for i in range(COUNT)]
    ffhq = write_ffhq(tmp_path / "ffhq")
    roots = [
        ffhq,
        ffhq / "thumbnails128x128",
        write_zip(tmp_path / "ffhq.zip", stylegan_names(contents)),
        write_lmdb(tmp_path / "lmdb", contents),
    ]
    plain = tmp_path / "plain"
    for i in reversed(range(COUNT)):  # not written in the order of names
        (plain / f"{i // 4}").mkdir(parents=True, exist_ok=True)
        (plain / f"{i // 4}" / f"face {i}.PNG").write_bytes(contents[i])
    blocks = np.stack([pixels(i).reshape(32, 4, 32, 4, 3).mean((1, 3)) for i in range(COUNT)]).transpose(0, 3, 1, 2)
    for root in [*roots, plain]:
        read = all_images(data(root))
        assert read.dtype == np.uint8 and np.abs(read - blocks).max() <= 0.5, root
        assert (pickle.loads(pickle.dumps(data(root).reader))[1] == read[1]).all()  # as in a worker
    assert len({data(root).reference_key for root in roots[:2]}) == 1


def test_smallest_sufficient_folder_is_read(tmp_path):
    write_ffhq(tmp_path, range(1))
    write_ffhq(tmp_path, range(1), 1024)
    assert data(tmp_path, expected=1).reader.size == (128, 128)
    large = data(tmp_path, expected=1, image_size=256)
    assert large.reader.size == (1024, 1024) and large.reader[0].shape == (3, 256, 256)
    blocks = pixels(0, 1024).reshape(256, 4, 256, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(large.reader[0] - blocks).max() <= 0.5


def test_indivisible_sizes_are_averaged_by_area(tmp_path):
    write_zip(tmp_path / "a.zip", {"a.png": png(pixels(0, 48))})
    read = data(tmp_path / "a.zip", image_size=32).reader[0].astype(float)
    fine = pixels(0, 48).repeat(2, 0).repeat(2, 1).reshape(32, 3, 32, 3, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(read - fine).max() <= 0.51


@pytest.mark.parametrize("missing", ["folder", "folders", "file"])
def test_missing_files_of_ffhq_are_named(tmp_path, missing):
    numbers = {"folder": [0, 1, 2000], "folders": [1000], "file": [0, 2]}[missing]
    expected = {"folder": 2001, "folders": 5000, "file": 3}[missing]
    message = {
        "folder": r"thumbnails128x128 lacks 1 of 3 subfolders \(01000\); complete the download, or decrease expected",
        "folders": r"lacks 4 of 5 subfolders \(00000, 02000, 03000 and 1 more\)",
        "file": r"lacks 1 of 3 images \(00000/00001.png\)",
    }[missing]
    write_ffhq(tmp_path, numbers)
    with pytest.raises(InputError, match=message):
        data(tmp_path, expected=expected).prepare_data()


def test_thumbnails_are_too_small_for_large_images(tmp_path):
    with pytest.raises(InputError, match="has only thumbnails128x128, which is smaller than image_size 256"):
        data(write_ffhq(tmp_path), image_size=256).prepare_data()
    write_ffhq(tmp_path / "b", range(1))
    (tmp_path / "b" / "thumbnails128x128" / "00000" / "00000.png").write_bytes(png(pixels(0, 64)))
    with pytest.raises(InputError, match=r"00000/00000.png is 64×64, expected 128×128"):
        data(tmp_path / "b", expected=1).prepare_data()


BAD = {
    "text": (b"no image", "is corrupt or not of a supported image format"),
    "cut": (png(pixels(1))[:2000], "is corrupt or not of a supported image format"),
    "empty": (b"", "is corrupt or not of a supported image format"),
    "tga": (png(pixels(1), kind="TGA"), "is corrupt or not of a supported image format"),
    "size": (png(pixels(1, 64)), "is 64×64, expected 128×128"),
    "wide": (png(pixels(1)[:100]), "is 128×100, expected 128×128"),
    "mask": (png(np.dstack([pixels(1), np.eye(128, dtype=np.uint8)])), "is partly transparent"),
    "float": (png(np.zeros((128, 128), np.float32), kind="TIFF"), "has mode F; convert it to 8-bit"),
    "cmyk": (png(pixels(1), "CMYK", "JPEG"), "has mode CMYK"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_unusable_images_are_named(tmp_path, kind, form):
    content, message = BAD[kind]
    contents = {"a.png": png(pixels(0)), "b.png": content}
    if form == "zip":
        root = write_zip(tmp_path / "set.zip", contents)
    else:
        root = tmp_path
        for name, each in contents.items():
            (root / name).write_bytes(each)
    module = data(root)
    assert module.reader[0].shape == (3, 32, 32)
    with pytest.raises(ImageError, match=rf"b\.png {message}"):
        module.reader[1]
    with pytest.raises(InputError, match=rf"^{root}: b\.png {message}[^\n]*$"):
        module.prepare_data()


@pytest.mark.parametrize("kind", ["L", "1", "P", "opaque", "JPEG"])
def test_supported_modes_become_rgb(tmp_path, kind):
    flat = np.full((128, 128, 3), 255, np.uint8)
    if kind == "opaque":
        content = png(np.dstack([flat, flat[..., 0]]))
    else:
        content = png(flat, None if kind == "JPEG" else kind, "JPEG" if kind == "JPEG" else "PNG")
    write_zip(tmp_path / "set.zip", {"a.png": content})
    assert (data(tmp_path / "set.zip").reader[0] == 255).all()


def test_corrupt_zip_names_its_member(tmp_path):
    path = write_zip(tmp_path / "set.zip", {"a.png": png(pixels(0)), "b.png": png(pixels(1))})
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("b.png")
    whole = bytearray(path.read_bytes())
    whole[info.header_offset + 200] ^= 255
    path.write_bytes(bytes(whole))
    with pytest.raises(ImageError, match=r"set\.zip: b\.png cannot be read \(Bad CRC-32"):
        data(path).reader[1]
    path.write_bytes(bytes(whole[:1000]))
    with pytest.raises(InputError, match=r"set\.zip cannot be read as a ZIP file"):
        data(path).prepare_data()
    write_zip(path, {"readme.txt": b"", "__MACOSX/a.png": b""})
    with pytest.raises(InputError, match=r"set\.zip has no images"):
        data(path).prepare_data()


@settings(max_examples=30, deadline=None)
@given(position=st.integers(0, 5000), change=st.integers(1, 255), cut=st.booleans())
def test_corrupt_zips_raise_only_input_errors(tmp_path_factory, position, change, cut):
    folder = tmp_path_factory.mktemp("corrupt")
    path = write_zip(folder / "set.zip", {"a.png": png(pixels(0, 32))})
    content = bytearray(path.read_bytes())
    position %= len(content)
    if cut:
        content = content[:position]
    else:
        content[position] ^= change
    path.write_bytes(bytes(content))
    try:
        all_images(data(path))
    except InputError as error:
        assert "set.zip" in str(error) and "\n" not in str(error)


def test_unreadable_sources_raise(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no such file or folder: .*nothing; set root to"):
        data(tmp_path / "nothing").prepare_data()
    with pytest.raises(
        InputError,
        match=r"has no images, .* and neither thumbnails128x128 nor images1024x1024",
    ):
        data(tmp_path).prepare_data()
    write_lmdb(tmp_path, [png(pixels(0))])
    monkeypatch.setenv("PYTHONPATH", str(shadow(tmp_path / "shadow", "lmdb")))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(InputError, match="is an LMDB, which requires the package lmdb: pip install lmdb"):
        data(tmp_path).prepare_data()


def test_lmdb_without_required_keys_raises(tmp_path):
    root = write_lmdb(tmp_path / "a", [png(pixels(0, 64))], 64)
    with pytest.raises(InputError, match=r"no resolution of at least image_size 128 \(it has 64\)"):
        data(root, image_size=128).prepare_data()
    assert data(root).reader.size == (64, 64)
    root = write_lmdb(tmp_path / "b", [])
    with pytest.raises(InputError, match="has no valid key 'length'"):
        data(root).prepare_data()
    for number, (length, message) in enumerate(
        {b"2": "no key '128-00001' although its length is 2", b"9" * 5000: "no valid key 'length'"}.items()
    ):
        root = write_lmdb(tmp_path / f"c{number}", [png(pixels(0))], length=length)
        with pytest.raises(InputError, match=message):
            data(root).prepare_data()


def test_corrupt_lmdb_raises(tmp_path):
    contents = [png(pixels(i)) for i in range(COUNT)]
    whole = (write_lmdb(tmp_path / "whole", contents) / "data.mdb").read_bytes()
    file = tmp_path / "set.lmdb"
    for content, message in (
        (whole[: len(whole) // 2], "is truncated"),
        (b"", "is not an LMDB"),
        (pickle.dumps({}), "is not an LMDB"),
        (whole[:8192] + bytes(len(whole) - 8192), "its keys cannot be read"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            data(file).prepare_data()


def test_images_are_never_enlarged_and_only_cropped_on_request(tmp_path):
    wide = pixels(0)[:64]
    write_zip(tmp_path / "wide.zip", {"a.png": png(wide)})
    with pytest.raises(InputError, match="128×64; set center_crop"):
        data(tmp_path / "wide.zip").prepare_data()
    read = data(tmp_path / "wide.zip", center_crop=True, image_size=64).reader[0]
    assert (read.transpose(1, 2, 0) == wide[:, 32:96]).all()
    with pytest.raises(InputError, match="128×64, smaller than image_size 128"):
        data(tmp_path / "wide.zip", center_crop=True, image_size=128).prepare_data()


def test_mixed_sizes_are_cropped_on_request(tmp_path):
    for name, image in (("a.png", pixels(0, 64)), ("b.PNG", pixels(1)[:, :80]), ("c é.png", pixels(2)[:100])):
        (tmp_path / name).write_bytes(png(image))
    with pytest.raises(
        InputError, match=r"2 of 3 .*: 2 of another size than 64×64 \(b.PNG, c é.png\).*center_crop=true"
    ):
        data(tmp_path).prepare_data()
    module = data(tmp_path, center_crop=True, image_size=64)
    module.prepare_data()
    assert (module.reader[0].transpose(1, 2, 0) == pixels(0, 64)).all()
    assert module.reference().shape == (3, 3, 64, 64)
    (tmp_path / "tiny.png").write_bytes(png(pixels(3, 20)))
    with pytest.raises(InputError, match=r"tiny.png is 20×20, smaller than image_size 64; remove it$"):
        data(tmp_path, center_crop=True, image_size=64).prepare_data()


def test_all_unusable_images_are_reported_at_once(tmp_path):
    """Including the first images, which determine the expected size."""
    (tmp_path / "0 small.png").write_bytes(png(pixels(0, 16)))
    for i, kind in enumerate(("mask", "text", "empty", "float", "cut")):
        (tmp_path / f"{i}.png").write_bytes(BAD[kind][0])
    for i in range(3):
        (tmp_path / f"z{i}.png").write_bytes(png(pixels(i)))
    with pytest.raises(InputError) as caught:
        data(tmp_path).prepare_data()
    sentence = str(caught.value)
    assert sentence.startswith(
        f"6 of 9 images in {tmp_path} are unusable: 1 of another size than 128×128 (0 small.png)"
    )
    assert (
        "1 partly transparent (0.png); 3 corrupt or not of a supported image format (1.png, 2.png, 4.png)" in sentence
    )
    assert "on_corrupt=skip" in sentence and "chanterelle.yaml" in sentence


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    image = Image.fromarray(np.kron(np.arange(8, dtype=np.uint8).reshape(2, 4) * 30, np.ones((32, 32), np.uint8)))
    image.getexif()[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=image.getexif(), quality=95)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).convert("RGB"))
    height, width = upright.shape[:2]
    read = data(tmp_path, center_crop=True, image_size=64).reader[0].transpose(1, 2, 0)
    top, left = (height - 64) // 2, (width - 64) // 2
    assert (read == upright[top : top + 64, left : left + 64]).all()


def test_held_out_mirror_and_reference(tmp_path):
    root = write_ffhq(tmp_path)
    whole, divided = data(root), data(root, held_out=3, mirror=True, reference_images=2)
    whole.prepare_data()
    divided.prepare_data()
    assert whole.reference_images == 7 and len(whole.training_indices) == 7 and whole.kid_subset == 3
    assert divided.reference_indices == [4, 6] and len(divided.training_indices) == 4
    assert torch.equal(divided.reference(), whole.reference()[[4, 6]])
    dataset = divided.train_dataloader().dataset
    assert len(dataset) == 8
    assert torch.equal(dataset[6][0], whole.reference()[2].flip(-1)) and torch.equal(
        dataset[2][0], whole.reference()[2]
    )
    train, held_out = divided.sample_images(3)
    assert torch.equal(train, whole.reference()[:3]) and torch.equal(held_out, divided.reference())
    assert whole.sample_images(3) is None
    assert whole.reference_key != divided.reference_key
    assert sum(len(b[0]) for b in whole.val_dataloader()) == 7
    with pytest.raises(InputError, match="7 images, so held_out 7 leaves none"):
        data(root, held_out=7).prepare_data()


def test_batches_are_seeded(tmp_path):
    root = write_zip(tmp_path / "set.zip", stylegan_names([png(pixels(i)) for i in range(COUNT)]))
    first = [b[0] for b in data(root, seed=5).train_dataloader()]
    assert len(first) == data(root).steps == 3 and first[0].shape == (4, 3, 32, 32)
    assert all(torch.equal(a, b[0]) for a, b in zip(first, data(root, seed=5).train_dataloader(), strict=True))
    assert not torch.equal(first[0], next(iter(data(root, seed=6).train_dataloader()))[0])
    floats = data(root).on_after_batch_transfer([first[0]], 0)[0]
    assert floats.dtype == torch.float32 and 0 <= floats.min() and floats.max() <= 1


@pytest.mark.slow
def test_workers_give_the_same_images_and_errors(tmp_path):
    contents = stylegan_names([*(png(pixels(i)) for i in range(COUNT)), b"text"])
    root = write_zip(tmp_path / "set.zip", contents)
    alone, workers = (iter(data(root, seed=3, batch_size=1, num_workers=n).train_dataloader()) for n in (0, 1))
    count = 0
    with pytest.raises(ImageError) as one:
        for (image,) in alone:
            assert torch.equal(image, next(workers)[0])
            count += 1
    assert count > 0
    with pytest.raises(ImageError) as other:
        next(workers)
    assert (
        str(one.value)
        == str(other.value)
        == f"{root}: {list(contents)[-1]} is corrupt or not of a supported image format; " + ("replace or remove it")
    )


@pytest.mark.skipif(not FACES.is_dir(), reason="the real faces are not available")
def test_real_faces():
    with pytest.raises(InputError, match="92×112; set center_crop"):
        data(FACES).prepare_data()
    module = data(FACES, center_crop=True, held_out=40, mirror=True)
    assert len(module.reader) == 400 and len(module.training_indices) == 360
    module.prepare_data()
    reference = module.reference().float()
    assert reference.shape == (40, 3, 32, 32) and (reference[:, 0] == reference[:, 2]).all()
    assert reference.std((1, 2, 3)).min() > 10
    (batch,) = next(iter(module.train_dataloader()))
    assert batch.shape == (4, 3, 32, 32)
    reader = ImageReader(open_source(FACES, 32, 1), 32, center_crop=True)
    with Image.open(FACES / "01_01.png") as image:
        square = np.asarray(image)[10:102].repeat(8, 0).repeat(8, 1).reshape(32, 23, 32, 23).mean((1, 3))
    assert np.abs(reader[0] - square).max() <= 0.51
