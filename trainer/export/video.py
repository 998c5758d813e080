"""Images as a film: GIF by Pillow, MP4 by the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import InputError
from utils.files import write_atomically

MILLISECONDS = 40  # a frame; GIF counts in hundredths of a second


def check_film(kind: str, size: int) -> None:
    """Refuse what :func:`write_film` could not write, before hours of drawing.

    Raises:
        InputError: MP4 without imageio-ffmpeg, or of an odd size.
    """
    if kind != "mp4":
        return
    try:
        import imageio_ffmpeg  # noqa: F401 - an extra
    except ImportError as error:
        raise InputError(
            "MP4 needs imageio-ffmpeg, which brings ffmpeg: pip install imageio-ffmpeg; or choose gif"
        ) from error
    if size % 2:
        raise InputError(f"MP4 has images of even size, --film_size says {size}")


def write_film(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write RGB images of one size as a film of 25 a second, GIF (for ever) or MP4 (H.264) by the path's suffix."""
    if path.suffix == ".gif":
        # One palette for all frames: colours do not flicker.
        images = list(frames)
        sheet = Image.fromarray(np.concatenate([np.asarray(p) for p in images[:: max(1, len(images) // 8)]]))
        palette = sheet.quantize(256)
        first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        options = {"save_all": True, "append_images": rest, "duration": MILLISECONDS, "loop": 0, "optimize": False}
        write_atomically(path, lambda file: first.save(file, format="GIF", **options))
        return
    write_atomically(path, lambda file: _write_mp4(file, frames))


def _write_mp4(path: Path, frames: Iterator[Image.Image]) -> None:
    import imageio_ffmpeg  # an extra

    first = next(frames)
    writer = imageio_ffmpeg.write_frames(
        str(path),
        first.size,
        fps=1000 / MILLISECONDS,
        macro_block_size=2,
        output_params=["-f", "mp4", "-loglevel", "error"],
    )
    writer.send(None)
    for frame in (first, *frames):
        writer.send(np.ascontiguousarray(frame))
    writer.close()
