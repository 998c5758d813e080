"""What Pillow decodes without an error, but wrongly."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import UInt8
from PIL.Image import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    TiffImageFile,
)


def png_chunks(image: PngImageFile) -> list[tuple[bytes, int, int]]:
    """Return kind, position of the data and their length of each chunk of a PNG that is not decoded yet.

    Only the headers of the chunks are read. The list ends with what is not a chunk, such as zeros.
    """
    file = image.fp
    assert file is not None
    position = file.tell()
    chunks = []
    at = file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:].isalpha():
        length, kind = struct.unpack(">I4s", head)
        chunks.append((kind, at + 8, length))
        at = file.seek(at + 12 + length)
    file.seek(position)
    return chunks


def has_wrong_checksum(image: Image) -> bool:
    """Whether the pixels of an image that is not decoded yet have a wrong checksum, as those of a PNG whose end is zeros.

    Pillow does not compare these checksums. The pixels behind the first wrong one are not those of the image. The end of a
    truncated file is not an error here.
    """
    if not isinstance(image, PngImageFile):
        return False
    file = image.fp
    assert file is not None
    position = file.tell()
    wrong = False
    for kind, start, length in png_chunks(image):
        if kind == b"IDAT":
            file.seek(start)
            data, checksum = file.read(length), file.read(4)
            wrong |= len(checksum) == 4 and zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big") != checksum
    file.seek(position)
    return wrong


def has_16_bit_planes(image: Image) -> bool:
    """Whether a TIFF has uncompressed planes of 16 bits, whose bytes Pillow reads as pixels."""
    if not isinstance(image, TiffImageFile):
        return False
    tags = image.tag_v2
    planes = tags.get(PLANAR_CONFIGURATION) == 2 and tags.get(COMPRESSION, 1) == 1
    return planes and max(tags.get(BITSPERSAMPLE, (1,))) > 8


def grey_to_8_bit(image: Image) -> UInt8[np.ndarray, "H W"]:
    """Return the pixels of a grey image of 16 bits, or of a TIFF of 12 bits, scaled to 8 bits."""
    values, white = np.asarray(image), 65535
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(BITSPERSAMPLE) == (12,):  # Pillow does not scale these values
            white = 4095
        if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero, which Pillow respects only up to 8 bits
            values = white - values
    return (values / (white / 255)).round().astype(np.uint8)
