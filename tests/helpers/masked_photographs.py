"""Synthetic photographs like PlatonicGAN's: 8-bit palette PNGs cropped to the mask, with a transparent entry (tRNS)."""

from pathlib import Path

import numpy as np
from PIL import Image


def photograph(seed: int, width: int = 60, height: int = 80) -> Image.Image:
    """Return an ellipse of a random colour that touches all sides, brighter at the right; palette entry 0 is background."""
    random = np.random.default_rng(seed)
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width))
    inside = x[None] ** 2 + y[:, None] ** 2 <= 1
    level = 1 + np.broadcast_to(np.arange(width) * 100 // width, inside.shape)
    image = Image.fromarray(np.where(inside, level, 0).astype(np.uint8), "P")
    tone = random.uniform(0.3, 0.9, 3)
    ramp = (np.linspace(0.6, 1, 255)[:, None] * tone * 255).round().astype(np.uint8)
    image.putpalette(np.concatenate([np.full((1, 3), 255, np.uint8), ramp]).tobytes())
    return image


def write_photographs(folder: Path, count: int = 6) -> Path:
    """Write ``train/<i>.png`` and copies of the first two in ``test`` and ``val``; return the folder."""
    for i in range(count):
        for split in ("train", "test", "val") if i < 2 else ("train",):
            (folder / split).mkdir(parents=True, exist_ok=True)
            save(photograph(i, 60 + 10 * i, 80), folder / split / f"{i}.png")
    return folder


def save(image: Image.Image, path: Path) -> None:
    image.save(path, transparency=bytes([0] + [255] * 255))
