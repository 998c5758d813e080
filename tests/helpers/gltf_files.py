"""Small glTF files for the tests of mesh reading."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

CODES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """A glTF file under construction.

    Attributes:
        tree: its JSON.
        data: its buffer.
    """

    def __init__(self) -> None:
        self.data = b""
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "meshes": [], "nodes": [], "materials": [],
            "scenes": [{"nodes": []}], "scene": 0,
        }  # fmt: skip

    def view(self, content: bytes, **more: Any) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more})
        self.data += content
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more: Any) -> int:
        values = np.ascontiguousarray(values)
        width = 1 if values.ndim == 1 else values.shape[1]
        entry = {"bufferView": self.view(values.tobytes()), "componentType": CODES[str(values.dtype)]}
        self.tree["accessors"].append({**entry, "count": len(values), "type": TYPES[width], **more})
        return len(self.tree["accessors"]) - 1

    def mesh(self, vertices: np.ndarray, faces: np.ndarray | None, **primitive: Any) -> int:
        attributes = {"POSITION": self.accessor(vertices.astype(np.float32)), **primitive.pop("attributes", {})}
        if faces is not None:
            primitive["indices"] = self.accessor(faces.reshape(-1).astype(np.uint16))
        self.tree["meshes"].append({"primitives": [{"attributes": attributes, **primitive}]})
        return len(self.tree["meshes"]) - 1

    def node(self, root: bool = True, **node: Any) -> int:
        self.tree["nodes"].append(node)
        if root:
            self.tree["scenes"][0]["nodes"].append(len(self.tree["nodes"]) - 1)
        return len(self.tree["nodes"]) - 1

    def material(self, color: Any = (1, 1, 1, 1), **surface: Any) -> int:
        self.tree["materials"].append({"pbrMetallicRoughness": {"baseColorFactor": list(color), **surface}})
        return len(self.tree["materials"]) - 1

    def texture(self, png: bytes, **sampler: Any) -> int:
        self.tree.setdefault("images", []).append({"bufferView": self.view(png), "mimeType": "image/png"})
        texture: dict[str, Any] = {"source": len(self.tree["images"]) - 1}
        if sampler:
            self.tree.setdefault("samplers", []).append(sampler)
            texture["sampler"] = len(self.tree["samplers"]) - 1
        self.tree.setdefault("textures", []).append(texture)
        return len(self.tree["textures"]) - 1

    def save(self, path: Path, external: bool = False) -> Path:
        """Write GLB, or glTF with a data URI or an external buffer, depending on the suffix."""
        buffer: dict[str, Any] = {"byteLength": len(self.data)}
        tree = {**{key: value for key, value in self.tree.items() if value or key == "scene"}, "buffers": [buffer]}
        if path.suffix == ".gltf":
            if external:
                path.with_name("the data.bin").write_bytes(self.data)
                buffer["uri"] = "the%20data.bin"
            else:
                buffer["uri"] = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
            path.write_text(json.dumps(tree))
            return path
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        data = self.data + bytes(-len(self.data) % 4)
        header = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data))
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
        path.write_bytes(header + chunks)
        return path
