"""Tensors to image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from utils.files import write_atomically


def tile(images: Float[Tensor, "N C H W"], columns: int, gap: int = 1) -> Float[Tensor, "C h w"]:
    """Images in rows of ``columns``, with a dark grey gap between them."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 0.2)
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def save_png(path: Path, image: Float[Tensor, "C H W"], at_least: int = 512) -> None:
    """Write a grey or RGB image, enlarged by a whole factor until it is about ``at_least`` wide."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    factor = max(1, round(at_least / pixels.shape[1]))
    pixels = np.repeat(np.repeat(pixels, factor, 0), factor, 1)
    enlarged = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda file: enlarged.save(file, format="PNG"))
