"""glTF 2.0 files: GLB, and glTF with external or embedded buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import DracoPy
import numpy as np
from jaxtyping import Float

from renderers.mesh_files.gltf_accessors import GltfFile, normalize_integers
from renderers.mesh_files.gltf_materials import MaterialReader
from renderers.mesh_files.parts import POINTS_AND_LINES, MeshError, Notes, Part, check_indices
from renderers.mesh_files.polygons import split_strips

SUPPORTED = {  # extensions that a file may require
    "EXT_texture_webp",
    "KHR_draco_mesh_compression",
    "KHR_lights_punctual",  # lights are the renderer's
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_materials_unlit",
    "KHR_mesh_quantization",
    "KHR_texture_transform",
}
_DRACO = "KHR_draco_mesh_compression"
_INSTANCING = "EXT_mesh_gpu_instancing"
_UNSUPPORTED_MODES = range(4)
_STRIP, _FAN = 5, 6


def read_gltf(content: bytes, folder: Path, notes: Notes) -> list[Part]:
    """Return the meshes of the file's default scene, posed by their nodes, skins and morph weights.

    Raises:
        MeshError: the file is corrupt, or requires an extension that is not supported.
    """
    file = GltfFile(content, folder)
    try:
        unknown = sorted(set(file.tree.get("extensionsRequired", [])) - SUPPORTED)
        if unknown:
            raise MeshError(
                f"requires the glTF extension {', '.join(unknown)}, which is not supported; export without it"
            )
        return _SceneReader(file, notes).parts()
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, MeshError):
            raise
        fault = f"lacks {error}" if isinstance(error, KeyError) else "has a value of the wrong type or size"
        raise MeshError(f"is not valid glTF: it {fault}") from error


class _SceneReader:
    def __init__(self, file: GltfFile, notes: Notes) -> None:
        self.file, self.notes = file, notes
        self.materials = MaterialReader(file, notes)
        self.worlds: dict[int, np.ndarray] = {}

    def parts(self) -> list[Part]:
        tree = self.file.tree
        if tree.get("scenes"):
            roots = self.file.item("scenes", tree.get("scene", 0)).get("nodes", [])
        else:
            children = {child for node in tree.get("nodes", []) for child in node.get("children", [])}
            roots = [i for i in range(len(tree.get("nodes", []))) if i not in children]
        stack = [(root, np.eye(4)) for root in reversed(roots)]
        while stack:
            index, parent = stack.pop()
            if index in self.worlds:
                raise MeshError(f"reaches nodes[{index}] twice")
            node = self.file.item("nodes", index)
            self.worlds[index] = parent @ _local(node)
            stack += [(child, self.worlds[index]) for child in reversed(node.get("children", []))]
        return [part for index in self.worlds for part in self._node_parts(index)]

    def _node_parts(self, index: int) -> list[Part]:
        node = self.file.item("nodes", index)
        if "mesh" not in node:
            return []
        if _INSTANCING in node.get("extensions", {}):
            raise MeshError(f"uses the glTF extension {_INSTANCING}, which is not supported; export without it")
        mesh = self.file.item("meshes", node["mesh"])
        weights = node.get("weights", mesh.get("weights", []))
        joints = self._joints(node["skin"]) if "skin" in node else None
        parts = []
        for primitive in mesh["primitives"]:
            if primitive.get("mode", 4) in _UNSUPPORTED_MODES:
                self.notes.add(POINTS_AND_LINES)
                continue
            parts.append(self._part(primitive, weights, joints, self.worlds[index]))
        return parts

    def _joints(self, index: int) -> Float[np.ndarray, "J 4 4"]:
        """Return each joint's matrix from the mesh's rest pose to the world."""
        skin = self.file.item("skins", index)
        missing = [joint for joint in skin["joints"] if joint not in self.worlds]
        if missing:
            raise MeshError(f"has a skin whose joint nodes[{missing[0]}] is not in the scene")
        worlds = np.stack([self.worlds[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" not in skin:
            return worlds
        inverse = self.file.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        return worlds @ inverse[: len(worlds)]

    def _part(
        self, primitive: dict[str, Any], weights: list[float], joints: np.ndarray | None, world: np.ndarray
    ) -> Part:
        attributes, indices = self._attributes(primitive)
        if "POSITION" not in attributes:
            raise MeshError("has a primitive without positions")
        vertices = attributes["POSITION"].astype(np.float64)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            if weight and "POSITION" in target:
                vertices = vertices + weight * self.file.accessor(target["POSITION"])
        check_indices(indices, len(vertices))
        if any(len(values) != len(vertices) for values in attributes.values()):
            raise MeshError("has a primitive whose attributes differ in number")
        faces = _triangles(indices, primitive.get("mode", 4))
        matrices = world[None]
        if joints is not None and "JOINTS_0" in attributes:
            matrices = _skin_matrices(attributes, joints)
        vertices = np.einsum("vij,vj->vi", np.broadcast_to(matrices[:, :3, :3], (len(vertices), 3, 3)), vertices)
        vertices = vertices + matrices[:, :3, 3]
        if np.linalg.det(matrices[0, :3, :3]) < 0:
            faces = faces[:, ::-1]
        return self.materials.part(vertices, faces, attributes, primitive.get("material"))

    def _attributes(self, primitive: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        names = {
            name: number
            for name, number in primitive["attributes"].items()
            if name == "POSITION" or name.startswith(("TEXCOORD_", "COLOR_0", "JOINTS_", "WEIGHTS_"))
        }
        draco = primitive.get("extensions", {}).get(_DRACO)
        if draco is None:
            values = {name: self.file.accessor(number) for name, number in names.items()}
            if "indices" in primitive:
                return values, self.file.accessor(primitive["indices"])[:, 0].astype(np.int64)
            return values, np.arange(len(next(iter(values.values()), [])))
        try:
            mesh = DracoPy.decode(self.file.view(draco["bufferView"]))
            faces = np.asarray(mesh.faces, np.int64)
        except MeshError:
            raise
        except Exception as error:  # the decoder raises arbitrary exceptions for corrupt data
            raise MeshError("has Draco data that cannot be decoded") from error
        values = {}
        for name, number in names.items():
            if name not in draco["attributes"]:
                values[name] = self.file.accessor(number)
                continue
            found = mesh.get_attribute_by_unique_id(draco["attributes"][name])
            if found is None:
                raise MeshError(f"has Draco data without {name}")
            data = np.asarray(found["data"]).reshape(len(mesh.points), -1)
            values[name] = normalize_integers(data) if self.file.item("accessors", number).get("normalized") else data
        return values, faces.reshape(-1)


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    if mode == 4:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    if mode == _STRIP:
        return split_strips(indices, -1)
    if mode == _FAN:
        count = max(len(indices) - 2, 0)
        return np.stack([indices[1 : count + 1], indices[2 : count + 2], np.repeat(indices[:1], count)], 1)
    raise MeshError(f"has a primitive of the unknown mode {mode}")


def _local(node: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64)
    norm = x * x + y * y + z * z + w * w
    s = 2 / norm if norm > 0 else 0.0
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _skin_matrices(attributes: dict[str, np.ndarray], joints: np.ndarray) -> Float[np.ndarray, "V 4 4"]:
    """Return the weighted mean of the joints' matrices at each vertex."""
    total, blended = 0.0, 0.0
    for i in range(len([name for name in attributes if name.startswith("JOINTS_")])):
        numbers, weights = attributes[f"JOINTS_{i}"].astype(np.int64), attributes[f"WEIGHTS_{i}"].astype(np.float64)
        check_indices(numbers, len(joints))
        blended = blended + np.einsum("vk,vkij->vij", weights, joints[numbers])
        total = total + weights.sum(1)
    return blended / np.maximum(np.asarray(total), 1e-9)[:, None, None]
