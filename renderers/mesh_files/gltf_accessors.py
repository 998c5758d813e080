"""Buffers and accessors of glTF files."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from renderers.mesh_files.images import find_file, read_file
from renderers.mesh_files.parts import PADDING, MeshError

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def buffer_files(path: Path) -> list[Path]:
    """Return the files in which a glTF or GLB file keeps its geometry; none for other files and for corrupt ones."""
    if path.suffix.lower() not in (".gltf", ".glb"):
        return []
    try:
        with path.open("rb") as file:
            if (head := file.read(20))[:4] == b"glTF":
                content = file.read(struct.unpack_from("<I", head, 12)[0])
            else:
                content = head + file.read()
        names = [unquote(buffer.get("uri", "data:")) for buffer in json.loads(content.decode("utf-8-sig"))["buffers"]]
        return [find_file(path.parent, name) or path.parent / name for name in names if not name.startswith("data:")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error):
        return []


class GltfFile:
    """A glTF or GLB file with its JSON as ``tree``.

    Args:
        content: the file.
        folder: folder of its buffers and images.

    Raises:
        MeshError: the file is truncated or is not glTF 2.0.
    """

    def __init__(self, content: bytes, folder: Path) -> None:
        self.folder = folder
        self.binary: bytes | None = None
        if content[:4] == b"glTF":
            content = self._chunks(content)
        try:
            self.tree: dict[str, Any] = json.loads(content.decode("utf-8-sig"))
            version = str(self.tree["asset"]["version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MeshError("is not a glTF 2.0 file") from error
        if version.split(".")[0] != "2":
            raise MeshError(f"is glTF {version}, and only glTF 2.0 is supported")
        self._buffers: dict[int, bytes] = {}

    def _chunks(self, content: bytes) -> bytes:
        if len(content) < 20:
            raise MeshError("is truncated")
        version, length, size, kind = struct.unpack_from("<IIII", content, 4)
        if version != 2:
            raise MeshError(f"is GLB version {version}, and only version 2 is supported")
        if kind != 0x4E4F534A or length > len(content) or 20 + size > len(content):
            raise MeshError("is truncated")
        at = 20 + size
        while at + 8 <= length:
            chunk, kind = struct.unpack_from("<II", content, at)
            if at + 8 + chunk > length:
                raise MeshError("is truncated")
            if kind == 0x004E4942 and self.binary is None:
                self.binary = content[at + 8 : at + 8 + chunk]
            at += 8 + chunk
        if content[length:].strip(PADDING):
            raise MeshError("has data after the end that its header declares; export it again")
        return content[20 : 20 + size]

    def item(self, kind: str, index: Any) -> dict[str, Any]:
        """Return entry ``index`` of the list ``kind``."""
        items = self.tree.get(kind, [])
        if type(index) is not int or not 0 <= index < len(items):
            raise MeshError(f"refers to {kind}[{index}], which does not exist")
        return items[index]

    def resource(self, uri: str) -> bytes:
        """Return the content of a data URI or of a file beside this one."""
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise MeshError("has a data URI that is not base64") from error
        path = find_file(self.folder, unquote(uri))
        if path is None:
            raise MeshError(f"refers to {unquote(uri)}, which does not exist")
        return read_file(path)

    def view(self, index: int) -> bytes:
        """Return the bytes of a buffer view."""
        view = self.item("bufferViews", index)
        if "EXT_meshopt_compression" in view.get("extensions", {}):
            raise MeshError("uses the extension EXT_meshopt_compression, which is not supported")
        number = view["buffer"]
        if number not in self._buffers:
            uri = self.item("buffers", number).get("uri")
            if uri is None and self.binary is None:
                raise MeshError(f"has no data for buffers[{number}]")
            self._buffers[number] = self.binary if uri is None else self.resource(uri)  # type: ignore[assignment]
        start = view.get("byteOffset", 0)
        data = self._buffers[number][start : start + view["byteLength"]]
        if start < 0 or len(data) < view["byteLength"]:
            raise MeshError(f"is truncated: bufferViews[{index}] ends beyond its buffer")
        return data

    def accessor(self, index: int) -> np.ndarray:
        """Return ``(count, width)``: integers as stored, and floats for floats and normalized integers."""
        accessor = self.item("accessors", index)
        kind, width, count = (
            np.dtype(_COMPONENTS[accessor["componentType"]]),
            _WIDTHS[accessor["type"]],
            accessor["count"],
        )
        if type(count) is not int or count < 0:
            raise MeshError(f"has an invalid count in accessors[{index}]")
        if "bufferView" in accessor:
            values = self._strided(accessor["bufferView"], accessor.get("byteOffset", 0), kind, width, count)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            values = values.copy()
            sparse = accessor["sparse"]
            number, at = sparse["count"], sparse["indices"]
            where = self._strided(
                at["bufferView"], at.get("byteOffset", 0), np.dtype(_COMPONENTS[at["componentType"]]), 1, number
            )
            if number and int(where.max()) >= count:
                raise MeshError(f"has a sparse index out of range in accessors[{index}]")
            at = sparse["values"]
            values[where[:, 0]] = self._strided(at["bufferView"], at.get("byteOffset", 0), kind, width, number)
        return normalize_integers(values) if accessor.get("normalized") else values

    def _strided(self, view: int, offset: int, kind: np.dtype, width: int, count: int) -> np.ndarray:
        data, step = self.view(view), self.item("bufferViews", view).get("byteStride") or kind.itemsize * width
        if count and (offset < 0 or offset + step * (count - 1) + kind.itemsize * width > len(data)):
            raise MeshError(f"is truncated: an accessor ends beyond bufferViews[{view}]")
        if not count:
            return np.zeros((0, width), kind)
        return np.ndarray((count, width), kind, data, offset, (step, kind.itemsize))


def normalize_integers(values: np.ndarray) -> np.ndarray:
    """Map integers to [0, 1], or to [-1, 1] if they are signed; return floats unchanged."""
    if values.dtype.kind not in "iu":
        return values
    return np.maximum(values / float(np.iinfo(values.dtype).max), -1)
