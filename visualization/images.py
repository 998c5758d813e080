"""Image grids and PNG files of tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, PngImagePlugin
from torch import Tensor

from utils.files import check_replaceable, write_atomically

SOFTWARE = "unrender"  # in the field "Software" of each PNG file


def tile(images: Float[Tensor, "N C H W"], columns: int, gap: int = 1) -> Float[Tensor, "C h w"]:
    """Arrange images in rows of ``columns`` with a dark grey gap between them."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    grid = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 0.2)
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        grid[:, top : top + h, left : left + w] = image
    return grid


def to_pil(image: Float[Tensor, "C H W"]) -> Image.Image:
    """Convert a grey or RGB image in [0, 1] to Pillow's 8-bit image."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_png(path: Path, image: Float[Tensor, "C H W"], min_width: int = 512) -> None:
    """Write a grey or RGB image in [0, 1], enlarged by an integer factor to a width of about ``min_width``."""
    pixels = to_pil(image)
    factor = max(1, round(min_width / pixels.width))
    write_png(path, pixels.resize((pixels.width * factor, pixels.height * factor), Image.Resampling.NEAREST))


def write_png(path: Path, image: Image.Image) -> None:
    """Write an image as PNG, with :data:`SOFTWARE` as its origin."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", SOFTWARE)
    write_atomically(path, lambda file: image.save(file, format="PNG", pnginfo=info))


def check_replaceable_result(path: Path, option: str) -> None:
    """Check that an image, or a file that is written after the PNG of its name, replaces no file of the user.

    Such as the texture of a mesh, which often lies beside it under its name.

    Args:
        path: where to write.
        option: the option that names the directory.

    Raises:
        InputError: there is a file, and :func:`write_png` has not written the PNG of its name.
    """
    check_replaceable(path, lambda file: _is_own_png(file.with_suffix(".png")), "a file written by unrender", option)


def _is_own_png(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False
