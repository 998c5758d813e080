"""Tensors to picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from utils.files import write_atomically


def tile(pictures: Float[Tensor, "N C H W"], columns: int, gap: int = 1) -> Float[Tensor, "C h w"]:
    """Pictures in rows of ``columns``, with a dark grey gap between them."""
    n, c, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 0.2)
    for i, picture in enumerate(pictures.detach().float().cpu()):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = picture
    return sheet


def save_png(path: Path, picture: Float[Tensor, "C H W"], at_least: int = 512) -> None:
    """Write a grey or RGB picture, enlarged by a whole factor until it is about ``at_least`` wide."""
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    factor = max(1, round(at_least / pixels.shape[1]))
    pixels = np.repeat(np.repeat(pixels, factor, 0), factor, 1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda file: image.save(file, format="PNG"))
