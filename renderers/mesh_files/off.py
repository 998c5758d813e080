"""OFF files: OFF, COFF, NOFF, CNOFF and STOFF with three coordinates, as text."""

from __future__ import annotations

import re

import numpy as np

from renderers.mesh_files.parts import MeshError, Part, check_indices, expand_faces, scale_colors, to_integers
from renderers.mesh_files.polygons import triangulate

_HEADER = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF(?![A-Za-z])\s*(BINARY)?")


def read_off(text: str) -> list[Part]:
    """Return the polygons of an OFF file as triangles, with the colours of vertices or faces.

    The counts may follow the header without a space, as in ModelNet.

    Raises:
        MeshError: a line is missing or has the wrong numbers, there are more faces than the header announces, or the variant
            is not supported.
    """
    body = "\n".join(line.split("#", 1)[0] for line in text.splitlines()).lstrip()
    header = _HEADER.match(body)
    textured, colored, with_normals, four, any_dimension, binary = header.groups() if header else [None] * 6
    if four or any_dimension or binary:
        raise MeshError("is a variant of OFF that is not supported (4OFF, nOFF or binary)")
    if header:
        body = body[header.end() :]
    elif not body[:1].isdigit():
        raise MeshError("is not an OFF file")
    lines = [line.split() for line in body.splitlines() if line.strip()]
    counts = _integers(lines[0])[:2] if lines else np.zeros(0, int)
    if len(counts) < 2 or (counts < 0).any() or len(lines) < 1 + counts.sum():
        raise MeshError("is truncated, or has the wrong numbers of vertices and faces in its header")
    vertex_lines, face_lines = lines[1 : 1 + counts[0]], lines[1 + counts[0] : 1 + counts.sum()]
    if any(_may_be_face(line) for line in lines[1 + counts.sum() :]):
        raise MeshError(f"has more faces than the {counts[1]:,} that its header announces; correct its header")
    fixed = 3 + 3 * bool(with_normals)
    if any(len(line) < fixed for line in vertex_lines):
        raise MeshError("has a vertex with fewer coordinates than its header announces")
    vertices = _numbers([word for line in vertex_lines for word in line[:3]]).reshape(-1, 3)
    vertex_colors = None
    if colored:
        uv = 2 * bool(textured)
        parts = [line[fixed : len(line) - uv if uv else None] for line in vertex_lines]
        vertex_colors = _colors(parts)
    sizes = _integers([line[0] for line in face_lines])
    if any(size < 1 or len(line) < 1 + size for line, size in zip(face_lines, sizes, strict=True)):
        raise MeshError("has a face with fewer corners than it announces")
    pairs = list(zip(face_lines, sizes.tolist(), strict=True))
    corners = _integers([word for line, size in pairs for word in line[1 : 1 + size]])
    colors = [line[1 + size :] for line, size in pairs]
    check_indices(corners, len(vertices))
    triangles, owner = triangulate(vertices, corners, sizes)
    faces = corners[triangles]
    if colors and vertex_colors is None and any(len(c) >= 3 for c in colors):
        return [expand_faces(vertices, faces, _colors(colors)[owner])]
    if colors and any(len(c) == 1 for c in colors):
        raise MeshError("has faces whose colours are numbers of a colour map, which is not supported")
    return [Part(vertices, faces, colors=vertex_colors)]


def _may_be_face(words: list[str]) -> bool:
    """Whether a line may be a face with extent. Text, and edges (two indices, or 2 and two indices), are not."""
    try:
        numbers = [float(word) for word in words[:3]]
    except ValueError:
        return False
    return len(numbers) == 3 and numbers[0] > 2


def _numbers(words: list[str]) -> np.ndarray:
    try:
        values = np.array(words, np.float64)
    except ValueError as error:
        raise MeshError(f"has {' '.join(words)[:40]!r} where numbers belong") from error
    if not (np.abs(values) < 2**62).all():  # also false for NaN; a face's numbers become integers
        raise MeshError(f"has numbers that are not finite or too large: {' '.join(words)[:40]!r}")
    return values


def _integers(words: list[str]) -> np.ndarray:
    return to_integers(_numbers(words), "i8")


def _colors(words: list[list[str]]) -> np.ndarray:
    """Return RGB in [0, 1]. A colour that is missing is white."""
    colors = np.ones((len(words), 3))
    given = [len(line) >= 3 for line in words]
    colors[given] = scale_colors(
        _numbers([word for line in words if len(line) >= 3 for word in line[:3]]).reshape(-1, 3)
    )
    return colors
