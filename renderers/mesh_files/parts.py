"""What the readers of mesh files return: parts of one material each, in the frame of the file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Integer, UInt8

POINTS_AND_LINES = "points and lines are left out"  # a note
PADDING = b" \t\r\n\0"  # bytes that may follow the data of a file


class MeshError(ValueError):
    """A mesh file cannot be read correctly. The message completes the sentence "<file> ..."."""


@dataclass(frozen=True)
class Texture:
    """An image and how it continues outside [0, 1].

    Args:
        pixels: RGB, row 0 at the top.
        wrap: ``repeat``, ``mirror`` or ``clamp`` along u and v.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    wrap: tuple[str, str] = ("repeat", "repeat")


@dataclass(frozen=True)
class Part:
    """Triangles of one material.

    Args:
        vertices: positions in the frame of the file.
        faces: vertex indices.
        uvs: texture coordinates, (0, 0) at the texture's top left, in any range; None without them.
        colors: sRGB colours of the vertices in [0, 1], which are multiplied with the texture; None for white.
        texture: the texture, or None.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Integer[np.ndarray, "F 3"]
    uvs: Float[np.ndarray, "V 2"] | None = None
    colors: Float[np.ndarray, "V 3"] | None = None
    texture: Texture | None = None


@dataclass
class Notes:
    """Messages about what a reader leaves out of a file, without duplicates."""

    lines: dict[str, None] = field(default_factory=dict)

    def add(self, line: str) -> None:
        self.lines[line] = None


def expand_faces(
    vertices: Float[np.ndarray, "V 3"], faces: Integer[np.ndarray, "F 3"], face_colors: Float[np.ndarray, "F 3"]
) -> Part:
    """Return a part whose faces have a colour each and so share no vertices."""
    count = 3 * len(faces)
    return Part(vertices[faces].reshape(-1, 3), np.arange(count).reshape(-1, 3), colors=np.repeat(face_colors, 3, 0))


def join_lines(text: str) -> str:
    """Join the lines that a backslash continues. One at the end of a comment, as in a Windows path, continues nothing."""
    return re.sub(r"^([ \t]*#.*)|\\[ \t]*\r?\n", lambda found: found[1] or " ", text, flags=re.MULTILINE)


def scale_colors(values: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Return colours in [0, 1]. Files do not say whether theirs are of [0, 1] or [0, 255]: if any exceeds 2, all are of
    [0, 255]; up to 2, a value above 1 is rounding or overexposure.
    """
    return (values / (255 if values.max(initial=0) > 2 else 1)).clip(0, 1)


def to_integers(values: np.ndarray, kind: str) -> Integer[np.ndarray, ...]:
    """Return numbers as integers of a type. Raise a :class:`MeshError` unless all floats are integers in its range."""
    if values.dtype.kind in "iu":
        return values.astype(kind)
    limits = np.iinfo(kind)
    whole = (values >= limits.min) & (values < limits.max + 1) & (values == np.floor(values))
    if not whole.all():
        raise MeshError(f"has {values[~whole][0]:g} where an integer ({np.dtype(kind)}) belongs")
    return values.astype(kind)


def check_indices(faces: Integer[np.ndarray, ...], count: int) -> None:
    """Raise a :class:`MeshError` unless all indices are those of ``count`` vertices."""
    if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < count:
        bad = int(faces.max()) if faces.max() >= count else int(faces.min())
        raise MeshError(f"has a face that refers to vertex {bad} of {count:,} (numbered from 0)")
