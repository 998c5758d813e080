"""PLY files, ASCII and binary: polygons or triangle strips with colours or a texture."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from renderers.mesh_files.images import decode_texture, find_file, read_file
from renderers.mesh_files.parts import (
    PADDING,
    MeshError,
    Notes,
    Part,
    Texture,
    check_indices,
    expand_faces,
    scale_colors,
    to_integers,
)
from renderers.mesh_files.polygons import split_strips, triangulate

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
_NO_LISTS = {"x", "y", "z"}.union(*_UV_NAMES)  # of a vertex
_COLOR_NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


@dataclass
class _Element:
    """An element of the header: its properties are (name, type of a value, type of a list's length or None)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)


class _Lists:
    """A list property: all values, one list after the other, and the length of each list."""

    def __init__(self, values: np.ndarray, sizes: np.ndarray) -> None:
        self.values, self.sizes = values, sizes


Columns = dict[str, np.ndarray | _Lists]


def read_ply(content: bytes, folder: Path, notes: Notes) -> list[Part]:
    """Return the faces and triangle strips of a PLY file.

    Colours are of the vertices or of the faces. Texture coordinates are of the vertices, or of the corners of faces
    (``texcoord``), in the image that ``comment TextureFile`` names.

    Raises:
        MeshError: the file is truncated, has data that its header does not declare, its header is invalid, or it has only
            points.
    """
    elements, form, textures, start = _header(content)
    data = _read_ascii(content[start:], elements) if form == "ascii" else _read_binary(content, start, elements, form)
    vertex = data.get("vertex", {})
    if not {"x", "y", "z"} <= vertex.keys():
        raise MeshError("has no vertices with the properties x, y and z")
    vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], 1)
    face = data.get("face", {})
    lists = (face.get(name) for name in ("vertex_indices", "vertex_index"))
    polygons = next((column for column in lists if isinstance(column, _Lists)), None)
    strips = next((v for v in data.get("tristrips", {}).values() if isinstance(v, _Lists)), None)
    if polygons is None and strips is None:
        raise MeshError("is a point cloud: it has vertices but no faces")
    colors, face_colors = _colors(vertex), _colors(face)
    uvs = next((np.stack([np.asarray(vertex[a]), np.asarray(vertex[b])], 1).astype(np.float64)
                for a, b in _UV_NAMES if {a, b} <= vertex.keys()), None)  # fmt: skip
    texture = _texture(textures, folder, notes)
    parts = []
    if strips is not None:
        for strip in np.split(to_integers(strips.values, "i8"), np.cumsum(strips.sizes)[:-1]):
            faces = split_strips(strip, -1)
            check_indices(faces, len(vertices))
            parts.append(Part(vertices, faces, _flip(uvs), colors, texture))
    if polygons is not None:
        indices = to_integers(polygons.values, "i8")
        check_indices(indices, len(vertices))
        corners, owner = triangulate(vertices, indices, polygons.sizes)
        corner_uvs = face.get("texcoord")
        if texture is not None and isinstance(corner_uvs, _Lists):
            if (corner_uvs.sizes != 2 * polygons.sizes).any():
                raise MeshError("has faces whose texture coordinates are not two per corner")
            points = corner_uvs.values.astype(np.float64).reshape(-1, 2)[corners].reshape(-1, 2)
            faces = np.arange(corners.size).reshape(-1, 3)
            parts.append(Part(vertices[indices[corners]].reshape(-1, 3), faces, _flip(points), None, texture))
        elif face_colors is not None and colors is None:
            parts.append(expand_faces(vertices, indices[corners], face_colors[owner]))
        else:
            parts.append(Part(vertices, indices[corners], _flip(uvs), colors, texture))
    return parts


def _flip(uvs: np.ndarray | None) -> np.ndarray | None:
    return None if uvs is None else uvs * (1, -1) + (0, 1)


def _texture(names: list[str], folder: Path, notes: Notes) -> Texture | None:
    if not names:
        return None
    if len(names) > 1:
        raise MeshError("has several textures, which are not supported in PLY; export GLB or OBJ")
    path = find_file(folder, names[0])
    if path is None:
        notes.add(f"the texture {names[0]} was not found, so its surfaces have no texture")
        return None
    pixels = decode_texture(path.name, read_file(path), notes)
    return None if pixels is None else Texture(pixels)


def _colors(columns: Columns) -> np.ndarray | None:
    """Return RGB in [0, 1]: integers are of their type's whole range, those of 32 bits of [0, 255]."""
    for names in _COLOR_NAMES:
        values = [columns.get(name) for name in names]
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        if len(arrays) == 3:
            kind = arrays[0].dtype
            if kind.kind == "f":
                return scale_colors(np.stack(arrays, 1))
            high = np.iinfo(kind).max if kind.itemsize <= 2 else 255
            return np.stack([array / high for array in arrays], 1).clip(0, 1)
    return None


def _header(content: bytes) -> tuple[list[_Element], str, list[str], int]:
    end = re.search(rb"^end_header[ \t]*(\r\n|\n|\r)", content, re.MULTILINE) or re.search(rb"\rend_header\r", content)
    if not content.startswith(b"ply") or end is None:
        raise MeshError("is not a PLY file, or its header is incomplete")
    elements: list[_Element] = []
    form, textures = "", []
    for line in content[: end.start()].decode("latin-1").splitlines():
        words = line.split()
        try:
            match words:
                case ["format", form, *_]:
                    pass
                case ["element", name, count]:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", length, kind, name]:
                    if _TYPES[length][0] == "f" or (elements[-1].name == "vertex" and name in _NO_LISTS):
                        raise ValueError(line)
                    elements[-1].properties.append((name, _TYPES[kind], _TYPES[length]))
                case ["property", kind, name]:
                    elements[-1].properties.append((name, _TYPES[kind], None))
                case ["comment", label, *_] if label.lower() == "texturefile":
                    textures.append(line.split(None, 2)[2].strip())
                case ["property" | "element", *_]:
                    raise ValueError(line)
        except (ValueError, KeyError, IndexError) as error:
            raise MeshError(f"has an invalid line in its header: {line.strip()[:60]!r}") from error
    if form != "ascii" and form not in _ORDERS:
        raise MeshError(f"has an unknown format {form!r} in its header")
    if any(element.count < 0 for element in elements):
        raise MeshError("has a negative number of elements in its header")
    if repeated := [name for name, n in Counter(element.name for element in elements).items() if n > 1]:
        raise MeshError(f"declares the element {repeated[0]!r} twice in its header; export it again")
    return elements, form, textures, end.end()


def _read_binary(content: bytes, start: int, elements: list[_Element], form: str) -> dict[str, Columns]:
    order, offset, data = _ORDERS[form], start, {}
    for element in elements:
        if any(length for _, _, length in element.properties):
            data[element.name], offset = _binary_lists(content, offset, element, order)
            continue
        record = np.dtype([(f"{i}", order + kind) for i, (_, kind, _) in enumerate(element.properties)])
        if record.itemsize * element.count > len(content) - offset:
            raise MeshError(f"is truncated: {element.count:,} elements {element.name!r} are announced")
        rows = np.frombuffer(content, record, element.count, offset)
        data[element.name] = {name: rows[f"{i}"] for i, (name, _, _) in enumerate(element.properties)}
        offset += rows.nbytes
    _check_end(content[offset:])
    return data


def _check_end(rest: bytes) -> None:
    if rest.strip(PADDING):
        raise MeshError("has data after the elements that its header declares; export it again")


def _binary_lists(content: bytes, offset: int, element: _Element, order: str) -> tuple[Columns, int]:
    """Read an element with lists: at once if all lists are as long as the first ones, else row by row."""
    values: list[list[np.ndarray]] = [[] for _ in element.properties]
    uniform, offset_after = _uniform_lists(content, offset, element, order)
    if uniform is not None:
        return uniform, offset_after
    types = [
        (np.dtype(order + kind), None if length is None else np.dtype(order + length))
        for _, kind, length in element.properties
    ]
    for _ in range(element.count):
        for column, (kind, length) in zip(values, types, strict=True):
            count = 1
            if length is not None:
                if offset + length.itemsize > len(content):
                    raise MeshError(f"is truncated within its elements {element.name!r}")
                count = int(np.frombuffer(content, length, 1, offset)[0])
                offset += length.itemsize
            if count < 0 or offset + count * kind.itemsize > len(content):
                raise MeshError(f"is truncated within its elements {element.name!r}")
            column.append(np.frombuffer(content, kind, count, offset))
            offset += count * kind.itemsize
    return _columns(element, values), offset


def _uniform_lists(content: bytes, offset: int, element: _Element, order: str) -> tuple[Columns | None, int]:
    if not element.count:
        return None, offset
    fields, at = [], offset
    for i, (_, kind, length) in enumerate(element.properties):
        if length is None:
            fields.append((f"{i}", order + kind))
        else:
            first = content[at : at + np.dtype(length).itemsize]
            if len(first) < np.dtype(length).itemsize:
                return None, offset
            count = int(np.frombuffer(first, order + length)[0])
            if not 0 <= count < 2**20:
                return None, offset
            fields += [(f"{i}n", order + length), (f"{i}", order + kind, count)]  # type: ignore[list-item]
        at = offset + np.dtype(fields).itemsize
    record = np.dtype(fields)
    if record.itemsize * element.count > len(content) - offset:
        return None, offset
    rows = np.frombuffer(content, record, element.count, offset)
    result: Columns = {}
    for i, (name, _, length) in enumerate(element.properties):
        if length is None:
            result[name] = rows[f"{i}"]
        elif (rows[f"{i}n"] == rows[f"{i}n"][0]).all():
            result[name] = _Lists(rows[f"{i}"].reshape(-1), rows[f"{i}n"].astype(np.int64))
        else:
            return None, offset
    return result, offset + rows.nbytes


def _read_ascii(body: bytes, elements: list[_Element]) -> dict[str, Columns]:
    words = body.split()
    position, data = 0, {}
    for element in elements:
        values: list[list[np.ndarray]] = [[] for _ in element.properties]
        try:
            for _ in range(element.count):
                for column, (_, _, length) in zip(values, element.properties, strict=True):
                    count = 1
                    if length is not None:
                        size, position = float(words[position]), position + 1
                        count = int(size)
                        if count != size:
                            raise MeshError(f"has a list of {size:g} values in its elements {element.name!r}")
                    if count < 0 or position + count > len(words):
                        raise MeshError(f"is truncated within its elements {element.name!r}")
                    column.append(np.array([float(word) for word in words[position : position + count]]))
                    position += count
        except MeshError:
            raise
        except (ValueError, IndexError, OverflowError) as error:
            raise MeshError(
                f"is truncated, or has words where numbers belong, in its elements {element.name!r}"
            ) from error
        data[element.name] = _columns(element, values)
    _check_end(b"".join(words[position:]))
    return data


def _columns(element: _Element, values: list[list[np.ndarray]]) -> Columns:
    result: Columns = {}
    for (name, kind, length), column in zip(element.properties, values, strict=True):
        joined = np.concatenate(column) if column else np.zeros(0, kind)
        if kind[0] in "iu":
            joined = to_integers(joined, kind)  # text gives floats of any value
        sizes = np.array([len(row) for row in column], np.int64)
        result[name] = joined.astype(kind) if length is None else _Lists(joined, sizes)
    return result
