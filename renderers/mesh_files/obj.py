"""OBJ files: polygons with texture coordinates, materials and vertex colours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from renderers.mesh_files.mtl import Material, MaterialLibrary
from renderers.mesh_files.parts import POINTS_AND_LINES, MeshError, Notes, Part, join_lines, scale_colors
from renderers.mesh_files.polygons import triangulate

_FREE_FORM = {"curv", "curv2", "surf", "cstype", "vp", "call", "csh"}
_ABSENT = np.iinfo(np.int64).min  # a corner without texture coordinates


@dataclass
class _Polygons:
    """Faces of one material: indices of positions and texture coordinates, from 0."""

    sizes: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    uvs: list[int] = field(default_factory=list)


def read_obj(content: bytes, folder: Path, notes: Notes, materials: bool = True) -> list[Part]:
    """Return the polygons of an OBJ file as triangles, one part per material.

    Negative indices count from the last element before the face. Normals, smoothing groups, lines and points are left out.

    Args:
        content: the file.
        folder: folder of its material files.
        notes: receives what is left out.
        materials: whether to read materials, texture coordinates and colours.

    Raises:
        MeshError: a line is invalid, or the file has curves or free-form surfaces.
    """
    if content[:2] in (b"\xfe\xff", b"\xff\xfe"):
        raise MeshError("is UTF-16 text, which OBJ does not allow; save it as UTF-8")
    text = join_lines(content.decode(errors="replace"))
    vertices: list[list[str]] = []
    uvs: list[list[str]] = []
    groups: dict[str | None, _Polygons] = {}
    group = groups.setdefault(None, _Polygons())
    library = MaterialLibrary(folder, notes)
    words: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split() if "#" in line else line.split()
        if not words:
            continue
        keyword = words[0]
        if keyword == "v":
            vertices.append(words[1:])
        elif keyword in ("f", "fo"):
            _add_face(group, words, len(vertices), len(uvs))
        elif keyword == "vt":
            uvs.append([*words[1:3], "0"][:2] if len(words) > 1 else ["nan", "nan"])
        elif keyword == "usemtl" and materials:
            group = groups.setdefault(line.strip()[6:].strip(), _Polygons())
        elif keyword == "mtllib" and materials:
            library.load(line.strip()[6:].strip())
        elif keyword in ("l", "p"):
            notes.add(POINTS_AND_LINES)
        elif keyword in _FREE_FORM:
            raise MeshError(f"has free-form curves or surfaces ({keyword}), which are not supported; export polygons")
    if words[:1] == ["f"] and len(words) < 4 and not text.endswith(("\n", "\r")):
        raise MeshError("is truncated: it ends within a face")
    positions, colors = _positions(vertices, notes)
    points = np.zeros((0, 2))
    if materials and uvs:
        points = _floats(uvs, "texture coordinates").reshape(-1, 2)
    used = {name: polygons for name, polygons in groups.items() if polygons.sizes}
    if not used:
        return []
    indices, uv_indices, sizes = (
        _integers([getattr(polygons, kind) for polygons in used.values()]) for kind in ("positions", "uvs", "sizes")
    )
    _check_indices(indices, len(positions), "vertex")
    # All materials together: the back faces of a two-sided mesh may have another material than the front faces.
    corners, owner = triangulate(positions, indices, sizes)
    groups_of_polygons = np.repeat(np.arange(len(used)), [len(polygons.sizes) for polygons in used.values()])
    parts = []
    for number, name in enumerate(used):
        chosen = corners[groups_of_polygons[owner] == number]
        material = library.get(name) if name else None
        parts += _parts(indices[chosen], uv_indices[chosen], positions, colors if materials else None, points, material)
    return parts


def _integers(groups: list[list[int]]) -> np.ndarray:
    try:
        return np.concatenate([np.array(values, np.int64) for values in groups])
    except OverflowError as error:
        raise MeshError("has a face with an index that is too large") from error


def _add_face(group: _Polygons, words: list[str], vertices: int, uvs: int) -> None:
    group.sizes.append(len(words) - 1)
    try:
        for word in words[1:]:
            fields = word.split("/")
            group.positions.append(_from_zero(int(fields[0]), vertices))
            group.uvs.append(_from_zero(int(fields[1]), uvs) if len(fields) > 1 and fields[1] else _ABSENT)
    except ValueError as error:
        raise MeshError(f"has a face with an invalid index: {' '.join(words)[:60]!r}") from error


def _from_zero(index: int, count: int) -> int:
    """Return an index of the file, from 1 or negative, as one from 0. A positive one may be of an element that follows."""
    if index == 0 or index < -count:
        raise ValueError
    return index - 1 if index > 0 else count + index


def _check_indices(indices: np.ndarray, count: int, what: str) -> None:
    """Check that no index is beyond the last element. The message has the number in the file, which counts from 1."""
    if indices.size and indices.max() >= count:
        raise MeshError(f"has a face that refers to {what} {indices.max() + 1} of {count:,}")


def _positions(
    vertices: list[list[str]], notes: Notes
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "V 3"] | None]:
    """Return positions and sRGB colours, which some programs append to positions.

    Four numbers are XYZ and a weight, which only curves use; six are XYZ RGB, and seven are XYZ RGBA.
    """
    widths = {len(words) for words in vertices}
    if widths and min(widths) < 3:
        raise MeshError("has a vertex with fewer than three coordinates")
    positions = _floats([words[:3] for words in vertices], "coordinates").reshape(-1, 3)
    if not widths or min(widths) < 6:
        if widths and max(widths) >= 6:
            notes.add("only some vertices have colours, so they are white")
        return positions, None
    colors = _floats([words[3:6] for words in vertices], "colours").reshape(-1, 3)
    return positions, scale_colors(colors)


def _floats(words: list[list[str]], what: str) -> np.ndarray:
    try:
        return np.array(words, np.float64)
    except ValueError as error:
        raise MeshError(f"has {what} that are not numbers") from error


def _parts(
    faces: np.ndarray,
    uv_indices: np.ndarray,
    positions: np.ndarray,
    colors: np.ndarray | None,
    uvs: np.ndarray,
    material: Material | None,
) -> list[Part]:
    """Return the triangles of one material; corners without texture coordinates make a face plain."""
    tint = None if material is None or (material.color == 1).all() else material.color
    if material is None or material.texture is None:
        if tint is not None:
            colors = np.broadcast_to(tint, positions.shape) * (1 if colors is None else colors)
        return [Part(positions, faces, colors=colors)]
    textured = (uv_indices != _ABSENT).all(1)
    _check_indices(uv_indices[textured], len(uvs), "texture coordinates")
    parts = [] if textured.all() else [Part(positions, faces[~textured], colors=colors)]
    pairs = np.stack([faces[textured], uv_indices[textured]], -1).reshape(-1, 2)
    pairs, corner = np.unique(pairs, axis=0, return_inverse=True)
    points = (uvs * material.scale + material.offset) * (1, -1) + (0, 1)
    colors = None if colors is None else colors[pairs[:, 0]]
    texture = Part(positions[pairs[:, 0]], corner.reshape(-1, 3), points[pairs[:, 1]], colors, material.texture)
    return [*parts, texture]
