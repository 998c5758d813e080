"""Layout of a figure as in print: images in rows and columns on white, with small labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from visualization.images import write_png

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # ships with matplotlib, so it is always the same
TEXT_COLOR = (70, 70, 70)


@dataclass(frozen=True)
class Figure:
    """Images and labels of a figure.

    Args:
        name: file name without suffix.
        images: rows of square images ``(1 or 3, h, w)`` in [0, 1] of any size; all rows have the same length.
        columns: labels above the columns, or none.
        rows: labels left of the rows, or none; may contain line breaks.
        caption: what a reader must know.
        blocks: indices of columns with a wider gap before them.
    """

    name: str
    images: list[list[Tensor]]
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    caption: str = ""
    blocks: tuple[int, ...] = ()


def render_figure(figure: Figure, size: int) -> Image.Image:
    """Render a figure with images ``size`` pixels wide. Pixels are repeated if the factor is an integer, else resampled."""
    gap, block_gap = max(2, size // 48), max(6, size // 10)
    font = ImageFont.truetype(FONT, _font_size(figure, size))
    left_margin = max((_text_size(font, text)[0] for text in figure.rows), default=-block_gap) + block_gap
    top_margin = max((_text_size(font, text)[1] for text in figure.columns), default=-block_gap) + block_gap
    lefts, left = [], left_margin
    for column in range(len(figure.images[0])):
        left += block_gap - gap if column in figure.blocks else 0
        lefts.append(left)
        left += size + gap
    page = Image.new("RGB", (left - gap, top_margin + len(figure.images) * (size + gap) - gap), "white")
    draw = ImageDraw.Draw(page)
    for left, text in zip(lefts, figure.columns, strict=False):
        position = (left + size / 2, top_margin - block_gap / 2)
        draw.text(position, text, TEXT_COLOR, font, anchor="ms" if "\n" not in text else "md")
    for i, row in enumerate(figure.images):
        top = top_margin + i * (size + gap)
        for left, image in zip(lefts, row, strict=True):
            page.paste(_resize(image, size), (left, top))
        if figure.rows:
            position = (left_margin - block_gap / 2, top + size / 2)
            draw.multiline_text(position, figure.rows[i], TEXT_COLOR, font, anchor="rm", align="right")
    return page


def write_figure(figure: Figure, size: int, folder: Path) -> Path:
    """Write ``folder/<name>.png`` and return its path."""
    path = folder / f"{figure.name}.png"
    write_png(path, render_figure(figure, size))
    return path


def _resize(image: Float[Tensor, "_ h w"], size: int) -> Image.Image:
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    cell = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    integer_factor = size % cell.width == 0
    return cell.resize((size, size), Image.Resampling.NEAREST if integer_factor else Image.Resampling.LANCZOS)


def _font_size(figure: Figure, size: int) -> int:
    """Return a ninth of the image size, or less if the widest column label would not fit."""
    preferred = max(9, round(size / 9))
    widest = max((_text_size(ImageFont.truetype(FONT, preferred), text)[0] for text in figure.columns), default=0)
    return max(7, preferred if widest <= size else int(preferred * size / widest))


def _text_size(font: ImageFont.FreeTypeFont, text: str) -> tuple[int, int]:
    """Return width and height of a label in pixels."""
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right - left), round(bottom - top)
