"""Files of a picture whose upper left quarter is yellow."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import FFHQDataModule

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


def tiff(bits: int, strips: list[bytes], width: int) -> bytes:
    """An uncompressed TIFF of one row: grey, or RGB in separate planes if there are three strips. Pillow writes neither
    grey of 12 bits nor planes.
    """
    n, head = len(strips), 8 + sum(map(len, strips))
    starts = [8 + sum(map(len, strips[:i])) for i in range(n)]
    tags = {
        256: [width],
        257: [1],
        258: [bits] * n,
        259: [1],
        262: [1 if n == 1 else 2],
        273: starts,
        277: [n],
        278: [1],
    }
    tags |= {279: [len(strip) for strip in strips], 284: [min(n, 2)]}
    entries, more = b"", b""
    for tag, values in tags.items():
        data = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            data, more = struct.pack("<I", head + 6 + 12 * len(tags) + len(more)), more + data
        entries += struct.pack("<HHI", tag, 4, len(values)) + data
    ifd = struct.pack("<H", len(tags)) + entries + bytes(4) + more
    return b"II*\0" + struct.pack("<I", head) + b"".join(strips) + ifd


def training(root, **options) -> FFHQDataModule:
    return FFHQDataModule(root, **{"image_size": 16, "batch_size": 2, "total_kimg": 0.01, **options})


def yellow_corner(image: np.ndarray) -> tuple[int, int]:
    """The corner, (row, column) in {0, 1}, of the yellow quarter of an image (3, H, W)."""
    height, width = image.shape[1:]
    quarters = image.astype(float).reshape(3, 2, height // 2, 2, width // 2).mean((2, 4))
    row, column = np.unravel_index((quarters[0] - quarters[2]).argmax(), (2, 2))
    return int(row), int(column)
