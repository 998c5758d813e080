"""STL files, binary and ASCII."""

from __future__ import annotations

import re

import numpy as np

from renderers.mesh_files.parts import PADDING, MeshError, Notes, Part

_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)\s*$", re.MULTILINE | re.IGNORECASE)
_LOOP = re.compile(rb"^\s*outer\s+loop\b", re.MULTILINE | re.IGNORECASE)
_SOLID = re.compile(rb"^\s*(solid|facet|end\s*solid)\b", re.MULTILINE | re.IGNORECASE)


def read_stl(content: bytes, notes: Notes) -> list[Part]:
    """Return the triangles of an STL file. Its header may begin with ``solid`` in both forms.

    Colours, which binary files store in two conflicting ways, are not read.

    Args:
        content: the file.
        notes: receives that there are colours.

    Raises:
        MeshError: the file is truncated, has more facets than its header announces, or has facets that are not triangles.
    """
    records = _binary(content)
    if records is None:
        corners = _ascii(content)
    else:
        corners = records["corners"].astype(np.float64)
        if records["attribute"].any():
            notes.add("colours of STL files are not supported, so its surfaces are white; export PLY or GLB")
    return [Part(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))]


def _binary(content: bytes) -> np.ndarray | None:
    if len(content) < 84:
        return None
    count = int.from_bytes(content[80:84], "little")
    size = 84 + count * _RECORD.itemsize
    is_text = content.lstrip()[:5].lower() == b"solid" and b"\x00" not in content[:1000]
    if size > len(content) or (size != len(content) and is_text):
        if is_text:
            return None
        raise MeshError(f"is truncated: its header announces {count:,} triangles")
    rest = content[size:]
    if len(rest) >= _RECORD.itemsize and rest.strip(PADDING):
        raise MeshError(f"has data after the {count:,} triangles that its header announces; export it again")
    return np.frombuffer(content, _RECORD, count, 84)


def _ascii(content: bytes) -> np.ndarray:
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if content.lstrip(b" \t\n")[:5].lower() != b"solid":
        raise MeshError("is not an STL file")
    found = _VERTEX.findall(content)
    if len(found) != 3 * len(_LOOP.findall(content)):
        raise MeshError("has facets that are not triangles, or is truncated")
    if found and not b"".join(_SOLID.findall(content)[-1:]).lower().startswith(b"end"):
        raise MeshError("is truncated: its last solid has no endsolid; export it again")
    try:
        return np.array(found, dtype=np.bytes_).astype(np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise MeshError("has a vertex whose coordinates are not numbers") from error
