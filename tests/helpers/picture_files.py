"""Files of a picture whose upper left quarter is yellow."""

import io
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


def training(root, **options) -> FFHQDataModule:
    return FFHQDataModule(root, **{"image_size": 16, "batch_size": 2, "total_kimg": 0.01, **options})


def yellow_corner(image: np.ndarray) -> tuple[int, int]:
    """The corner, (row, column) in {0, 1}, of the yellow quarter of an image (3, H, W)."""
    height, width = image.shape[1:]
    quarters = image.astype(float).reshape(3, 2, height // 2, 2, width // 2).mean((2, 4))
    row, column = np.unravel_index((quarters[0] - quarters[2]).argmax(), (2, 2))
    return int(row), int(column)
