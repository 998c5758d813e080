"""Images as a video: GIF by Pillow, MP4 by the ffmpeg of imageio-ffmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import InputError
from utils.files import write_atomically

FRAME_MILLISECONDS = 40  # GIF stores hundredths of a second


def check_video_options(kind: str, size: int) -> None:
    """Check that :func:`write_video` can write this format and size, before the frames are rendered.

    Raises:
        InputError: MP4 without imageio-ffmpeg, or with an odd size.
    """
    if kind != "mp4":
        return
    try:
        import imageio_ffmpeg  # noqa: F401 - optional dependency
    except ImportError as error:
        raise InputError(
            "MP4 requires imageio-ffmpeg, which includes ffmpeg: pip install imageio-ffmpeg; or use --turntable gif"
        ) from error
    if size % 2:
        raise InputError(f"--film_size {size} is odd, and MP4 requires an even size; change it")


def write_video(path: Path, frames: Iterator[Image.Image]) -> None:
    """Write RGB images of equal size as a video of 25 frames per second, by the path's suffix.

    ``.gif`` is an infinitely looping GIF, ``.mp4`` is H.264.
    """
    if path.suffix == ".gif":
        # One palette for all frames, so that colors do not flicker.
        images = list(frames)
        examples = Image.fromarray(np.concatenate([np.asarray(p) for p in images[:: max(1, len(images) // 8)]]))
        palette = examples.quantize(256)
        first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        duration = FRAME_MILLISECONDS

        def save(file: Path) -> None:
            first.save(file, "GIF", save_all=True, append_images=rest, duration=duration, loop=0, optimize=False)

        write_atomically(path, save)
        return
    write_atomically(path, lambda file: _write_mp4(file, frames))


def _write_mp4(path: Path, frames: Iterator[Image.Image]) -> None:
    import imageio_ffmpeg  # optional dependency

    first = next(frames)
    encoder = imageio_ffmpeg.write_frames(
        str(path),
        first.size,
        fps=1000 / FRAME_MILLISECONDS,
        macro_block_size=2,
        output_params=["-f", "mp4", "-loglevel", "error"],
    )
    with closing(encoder):  # ends ffmpeg, also if a frame cannot be rendered
        encoder.send(None)
        for frame in chain([first], frames):
            encoder.send(np.ascontiguousarray(frame))
