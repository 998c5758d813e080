"""Base colours and base-colour textures of glTF materials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from renderers.mesh_files.gltf_accessors import GltfFile, normalize_integers
from renderers.mesh_files.images import EMISSION, OPAQUE, decode_texture, multiply_linear, to_srgb
from renderers.mesh_files.parts import MeshError, Notes, Part, Texture

_WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
_TRANSFORM = "KHR_texture_transform"
_GLOSSINESS = "KHR_materials_pbrSpecularGlossiness"


class MaterialReader:
    """Apply materials to primitives: base colour, base-colour texture and vertex colours, which glTF multiplies.

    Args:
        file: the file.
        notes: receives what is left out.
    """

    def __init__(self, file: GltfFile, notes: Notes) -> None:
        self.file, self.notes = file, notes
        self._textures: dict[tuple[Any, ...], Texture | None] = {}
        self._images: dict[tuple[int, float], np.ndarray | None] = {}

    def part(
        self, vertices: np.ndarray, faces: np.ndarray, attributes: dict[str, np.ndarray], index: int | None
    ) -> Part:
        """Return triangles with the colours of material ``index``; None is the default material, which is white."""
        material = {} if index is None else self.file.item("materials", index)
        surface = material.get("pbrMetallicRoughness", {})
        factor, info = surface.get("baseColorFactor", [1, 1, 1, 1]), surface.get("baseColorTexture")
        if _GLOSSINESS in material.get("extensions", {}):
            surface = material["extensions"][_GLOSSINESS]
            factor, info = surface.get("diffuseFactor", [1, 1, 1, 1]), surface.get("diffuseTexture")
        linear = np.array(factor[:3], np.float64).clip(0, 1)
        mode = material.get("alphaMode", "OPAQUE")
        cutoff = material.get("alphaCutoff", 0.5) if mode == "MASK" else 1.0 if mode == "BLEND" else 0.0
        if factor[3] < cutoff:
            self.notes.add(OPAQUE)
        if any(value > 0 for value in material.get("emissiveFactor", ())):
            self.notes.add(EMISSION)
        uvs = texture = None
        if info is not None:
            uvs = self._uvs(info, attributes)
            if uvs is None:
                self.notes.add("a textured surface has no texture coordinates, so it has no texture")
            else:
                texture = self._texture(info["index"], tuple(linear), cutoff)
        if texture is not None:
            linear = np.ones(3)
        colors = None
        if "COLOR_0" in attributes:
            colors = to_srgb(normalize_integers(attributes["COLOR_0"])[:, :3] * linear)
        elif (linear != 1).any():
            colors = np.broadcast_to(to_srgb(linear), vertices.shape)
        return Part(vertices, faces, None if texture is None else uvs, colors, texture)

    def _uvs(self, info: dict[str, Any], attributes: dict[str, np.ndarray]) -> np.ndarray | None:
        transform = info.get("extensions", {}).get(_TRANSFORM, {})
        uvs = attributes.get(f"TEXCOORD_{transform.get('texCoord', info.get('texCoord', 0))}")
        if uvs is None:
            return None
        angle, scale = transform.get("rotation", 0.0), transform.get("scale", (1, 1))
        c, s = math.cos(angle), math.sin(angle)
        return uvs.astype(np.float64) * scale @ np.array([[c, -s], [s, c]]) + transform.get("offset", (0, 0))

    def _texture(self, index: int, linear: tuple[float, ...], cutoff: float) -> Texture | None:
        texture = self.file.item("textures", index)
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if source is None:
            used = ", ".join(texture.get("extensions", {})) or "no format"
            self.notes.add(f"a texture has only an image in {used}, which is not supported, so it is missing")
            return None
        sampler = self.file.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        wrap = tuple(_WRAPS[sampler.get(name, 10497)] for name in ("wrapS", "wrapT"))
        key = (source, wrap, linear)
        if key not in self._textures:
            pixels = self._pixels(source, cutoff)
            if pixels is not None and any(value != 1 for value in linear):
                pixels = multiply_linear(pixels, np.array(linear))
            self._textures[key] = None if pixels is None else Texture(pixels, (wrap[0], wrap[1]))
        elif (source, cutoff) not in self._images:
            self._pixels(source, cutoff)  # notes the pixels that are transparent at this cutoff
        return self._textures[key]

    def _pixels(self, source: int, cutoff: float) -> np.ndarray | None:
        if (source, cutoff) not in self._images:
            self._images[source, cutoff] = self._decode(source, cutoff)
        return self._images[source, cutoff]

    def _decode(self, index: int, cutoff: float) -> np.ndarray | None:
        image = self.file.item("images", index)
        name, content = image.get("name") or f"images[{index}]", b""
        if "bufferView" in image:
            content = self.file.view(image["bufferView"])
        else:
            uri = image["uri"]
            name = name if uri.startswith("data:") else Path(unquote(uri)).name
            try:
                content = self.file.resource(uri)
            except MeshError:
                self.notes.add(f"the texture {name} was not found, so its surfaces have no texture")
                return None
        return decode_texture(name, content, self.notes, cutoff)
