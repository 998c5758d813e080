"""Image files of all formats are decoded alike for training, comparisons and cutouts: orientation, modes, frames."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from picture_files import SIDEWAYS, encoded, picture, tiff, training, write, yellow_corner
from PIL import Image

from datamodules.images import decoding
from datamodules.images.alpha_masked import read_masked
from datamodules.images.decoding import UndecodableError, UnsupportedModeError, decode, open_image
from datamodules.images.image_set import open_images
from utils.errors import InputError

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
        "deep PGM": (
            b"P5 4 1 65535\n" + np.array([0, 257, 65535, 32896], ">u2").tobytes(),
            "L",
            [[0], [1], [255], [128]],
        ),
        "12-bit PGM": (
            b"P5 4 1 4095\n" + np.array([0, 16, 4095, 2056], ">u2").tobytes(),
            "L",
            [[0], [1], [255], [128]],
        ),
        "deep ASCII PGM": (b"P2 4 1 65535\n0 257 65535 32896\n", "L", [[0], [1], [255], [128]]),
        "bits": (encoded(Image.new("1", (4, 1), 1)), "L", [[255]] * 4),
    }
    for name, (content, mode, expected) in cases.items():
        with open_image(content) as image:
            read = decode(image)
        assert (read.mode, np.asarray(read).reshape(4, -1).tolist()) == (mode, expected), name


def png(depth: int, kind: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of 2 × 1 pixels with a tRNS chunk. Pillow writes no grey of 2 or 4 bits, and no RGB of 16."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0),
        b"tRNS": transparent,
        b"IDAT": zlib.compress(b"\0" + row),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("transparent", [0, 1])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_of_a_png_is_transparent_at_every_bit_depth(depth, transparent):
    top = 2**depth - 1
    row = (top << max(8 - 2 * depth, 0)).to_bytes(max(2 * depth // 8, 1))  # 0 and the largest value, from the left
    with open_image(png(depth, 0, row, struct.pack(">H", top * transparent))) as image:
        read = np.asarray(decode(image).convert("LA"))
    assert read.tolist() == [[[0, 255 * transparent], [255, 255 * (1 - transparent)]]]


def test_transparent_colours_of_a_png():
    row, key = bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3)
    with open_image(png(8, 2, row, key)) as image:
        assert np.asarray(decode(image)).tolist() == [[[1, 2, 3, 0], [4, 5, 6, 255]]]
    with pytest.raises(
        UnsupportedModeError, match="has mode 16-bit RGB with a transparent colour; convert it to 8-bit"
    ):
        open_image(png(16, 2, struct.pack(">6H", *[0x1234] * 6), struct.pack(">3H", *[0x1234] * 3)))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize(("photometric", "expected"), [(0, [255, 204, 0]), (1, [0, 51, 255])])
def test_white_of_16_bit_tiff_files_may_be_zero(photometric, expected, compression):
    """Pillow ignores this in 16 bits when it reads and writes; a Pillow that respects it fails here."""
    values = Image.fromarray(np.array([[0, 51 * 257, 65535]], np.uint16))
    content = encoded(values, "TIFF", compression=compression, tiffinfo={262: photometric})
    with open_image(content) as image:
        assert np.asarray(decode(image)).tolist() == [expected]


def test_12_bit_grey_is_scaled_to_8_bits():
    with open_image(tiff(12, [bytes.fromhex("0003e87d0fff")], 4)) as image:  # 0, 1000, 2000, 4095
        assert np.asarray(decode(image)).tolist() == [[0, 62, 125, 255]]


def test_16_bit_planes_are_refused_and_8_bit_planes_are_read():
    planes = [np.array([1, 2, 250], np.uint8) + i for i in range(3)]
    with open_image(tiff(8, [plane.tobytes() for plane in planes], 3)) as image:
        assert np.asarray(decode(image))[0].tolist() == [[1, 2, 3], [2, 3, 4], [250, 251, 252]]
    deep = tiff(16, [(plane.astype("<u2") * 257).tobytes() for plane in planes], 3)
    with pytest.raises(UnsupportedModeError, match="has mode 16-bit RGB in separate planes; convert it to 8-bit"):
        open_image(deep)


def test_32_bit_grey_is_refused():
    with pytest.raises(UnsupportedModeError, match="I"), open_image(encoded(Image.new("I", (4, 1), 70000), "TIFF")):
        pass


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


@pytest.mark.parametrize("options", [{}, {"save_all": True, "append_images": [Image.new("RGB", (128, 128))]}])
def test_png_files_whose_end_is_zeros_are_corrupt(tmp_path, options):
    """As a crash or an interrupted download leaves them. Pillow decodes them to half an image."""
    smooth = np.linspace(0, 255, 128)[:, None, None] + np.random.default_rng(0).normal(0, 9, (128, 128, 3))
    content = encoded(Image.fromarray(smooth.clip(0, 255).astype(np.uint8)), **options)
    with open_image(content) as image:
        decode(image)
    end = content.index(b"fcTL", 100) if options else len(content)  # of the first frame
    for part in (0.3, 0.5, 0.7, 0.9):
        kept = int(part * end)
        damaged = content[:kept] + bytes(len(content) - kept)
        with pytest.raises(UndecodableError), open_image(damaged) as image:
            decode(image)
    write(tmp_path / "0.png", Image.new("RGB", (128, 128)))
    (tmp_path / "1.png").write_bytes(damaged)
    with pytest.raises(InputError, match=r"1\.png is corrupt"):
        training(tmp_path).prepare_data()


def test_huge_images_are_named_by_their_size(tmp_path):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x09IDAT")
    with pytest.raises(InputError, match=r"0\.png has more pixels than the limit of 64 Mi; replace or remove it"):
        training(tmp_path).prepare_data()


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
