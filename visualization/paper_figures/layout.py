"""A figure as papers print them: images in rows and columns on white, with small labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.files import write_atomically

FONT = (
    Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
)  # comes with matplotlib, so it is the same everywhere
INK = (70, 70, 70)


@dataclass(frozen=True)
class Figure:
    """What a figure shows.

    Args:
        name: of its file.
        images: rows of images ``(1 or 3, h, w)`` in [0, 1], squares of any size; all rows are of one length.
        columns: a label above each column, or none.
        rows: a label beside each row, or none; lines are divided by a line feed.
        caption: what a reader must know.
        blocks: the columns that begin a block, a little apart from what stands before.
    """

    name: str
    images: list[list[Tensor]]
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    caption: str = ""
    blocks: tuple[int, ...] = ()


def render_figure(figure: Figure, size: int) -> Image.Image:
    """The figure, each image ``size`` pixels wide: pixels are repeated where that is a whole factor, else resampled."""
    gap, apart = max(2, size // 48), max(6, size // 10)
    font = ImageFont.truetype(FONT, _font_size(figure, size))
    margin = max((_extent(font, text)[0] for text in figure.rows), default=-apart) + apart
    head = max((_extent(font, text)[1] for text in figure.columns), default=-apart) + apart
    lefts, left = [], margin
    for column in range(len(figure.images[0])):
        left += apart - gap if column in figure.blocks else 0
        lefts.append(left)
        left += size + gap
    sheet = Image.new("RGB", (left - gap, head + len(figure.images) * (size + gap) - gap), "white")
    pen = ImageDraw.FigureFunction(sheet)
    for left, text in zip(lefts, figure.columns, strict=False):
        pen.text((left + size / 2, head - apart / 2), text, INK, font, anchor="ms" if "\n" not in text else "md")
    for i, row in enumerate(figure.images):
        top = head + i * (size + gap)
        for left, image in zip(lefts, row, strict=True):
            sheet.paste(_cell(image, size), (left, top))
        if figure.rows:
            middle = (margin - apart / 2, top + size / 2)
            pen.multiline_text(middle, figure.rows[i], INK, font, anchor="rm", align="right")
    return sheet


def write_figure(figure: Figure, size: int, folder: Path) -> Path:
    """``folder/<name>.png``; returns its path."""
    path = folder / f"{figure.name}.png"
    image = render_figure(figure, size)
    write_atomically(path, lambda file: image.save(file, format="PNG"))
    return path


def _cell(image: Float[Tensor, "_ h w"], size: int) -> Image.Image:
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().permute(1, 2, 0).numpy()
    cell = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy())
    whole = size % cell.width == 0
    return cell.resize((size, size), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _font_size(figure: Figure, size: int) -> int:
    """A ninth of an image, or smaller where the widest column label would not fit."""
    wanted = max(9, round(size / 9))
    widest = max((_extent(ImageFont.truetype(FONT, wanted), text)[0] for text in figure.columns), default=0)
    return max(7, wanted if widest <= size else int(wanted * size / widest))


def _extent(font: ImageFont.FreeTypeFont, text: str) -> tuple[int, int]:
    """Width and height of a label in pixels."""
    left, top, right, bottom = ImageDraw.FigureFunction(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right - left), round(bottom - top)
