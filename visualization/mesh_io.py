"""Mesh files without texture, and mesh statistics that matter for printing and simulation."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Integer
from trimesh.exchange.gltf import export_glb

from renderers.mesh_files.images import to_linear
from utils.files import write_atomically

_EMPTY_GLTF = b'{"asset":{"version":"2.0"}} '  # padded to a multiple of 4 bytes, as GLB requires
EMPTY = {  # trimesh does not export empty meshes
    "glb": struct.pack("<4sIIII", b"glTF", 2, 20 + len(_EMPTY_GLTF), len(_EMPTY_GLTF), 0x4E4F534A) + _EMPTY_GLTF,
    "obj": b"# an empty shape\n",
    "ply": b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 0\nproperty list uchar int vertex_indices\nend_header\n",
    "stl": bytes(80) + struct.pack("<I", 0),
}
NORMALS: dict[str, dict[str, Any]] = {  # options of trimesh by format
    "obj": {"include_normals": True},
    "ply": {"vertex_normal": True},
    "stl": {},
}

FLAT = 1e-6  # volume of a surface that is no solid, as a part of its area^1.5; rounding leaves less


def write_surface(
    path: Path,
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    normals: Float[np.ndarray, "V 3"] | None = None,
    colors: Float[np.ndarray, "V 3"] | None = None,
) -> None:
    """Write a mesh as GLB, OBJ, PLY or binary STL, depending on the suffix. Without faces, write a valid empty file.

    The material of a GLB is matt (metallic 0, roughness 1), so that it does not depend on a viewer's environment map. Its
    vertex colours are linear, as glTF requires; those of OBJ and PLY are sRGB. y is up: glTF defines it so, and the other
    formats have no field for it.

    Args:
        path: output file.
        vertices: vertices in the world frame.
        faces: vertex indices, counter-clockwise seen from outside.
        normals: unit vertex normals, or None to average the normals of adjacent faces.
        colors: sRGB vertex colours in [0, 1], or None; STL has no colours.
    """
    kind = path.suffix.removeprefix(".")
    if not len(faces):
        write_atomically(path, lambda file: file.write_bytes(EMPTY[kind]))
        return
    used, faces = np.unique(faces, return_inverse=True)  # a vertex without a face has no normal
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    colors = None if colors is None else colors[used]
    normals = _unit_normals(vertices, faces, None if normals is None else normals[used])
    if kind == "glb":
        content: Any = _to_glb(vertices, faces, normals, colors)
    else:
        pixels = None if colors is None else (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)
        mesh = trimesh.Trimesh(vertices, faces, vertex_normals=normals, vertex_colors=pixels, process=False)
        content = mesh.export(file_type=kind, **NORMALS[kind])
    content = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write_bytes(content))


def _to_glb(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, colors: np.ndarray | None) -> bytes:
    mesh = trimesh.Trimesh(vertices, faces, vertex_normals=normals, process=False)
    if colors is not None:  # as floats: 8 bits of linear intensity are too coarse for dark colours
        mesh.vertex_attributes["_COLOR"] = to_linear(colors).astype(np.float32)

    def finish(tree: dict[str, Any]) -> None:
        tree["materials"] = [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}]
        for primitive in (p for mesh in tree["meshes"] for p in mesh["primitives"]):
            primitive["material"] = 0
            if colors is not None:
                primitive["attributes"]["COLOR_0"] = primitive["attributes"].pop("_COLOR")

    return export_glb(trimesh.Scene(mesh), include_normals=True, tree_postprocessor=finish)


def _unit_normals(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None) -> Float[np.ndarray, "V 3"]:
    """Return vertex normals of length 1, as glTF requires. Vanishing normals, as between two voxels that touch at an edge,
    are replaced by the normal of an adjacent face, or by +z where all adjacent faces are without area.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    normals = np.array(mesh.vertex_normals if normals is None else normals, np.float64)
    missing = np.linalg.norm(normals, axis=1) < 0.5
    corner = missing[faces]
    normals[faces[corner]] = np.repeat(mesh.face_normals[:, None], 3, 1)[corner]
    normals[np.linalg.norm(normals, axis=1) < 0.5] = 0, 0, 1
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)


def mesh_statistics(vertices: Float[np.ndarray, "V 3"], faces: Integer[np.ndarray, "F 3"]) -> dict[str, Any]:
    """Report whether a surface is closed and where it is not.

    Vertices at the same position count as one, and faces without area are not counted.

    Returns:
        ``vertices`` and ``faces`` (counts), ``watertight`` (every edge has two faces of consistent winding, and every
        component encloses a volume: decimation may leave pairs of coinciding faces), ``boundary_edges`` (edges of one face),
        ``crowded_edges`` (edges of more than two faces), ``components``, ``area``, ``volume`` (None unless watertight) and
        ``bounds`` (lowest and highest corner), in the units of the vertices.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if len(faces):
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        mesh.update_faces(mesh.nondegenerate_faces(height=0))
    if not len(mesh.faces):
        zeros = dict.fromkeys(("vertices", "faces", "boundary_edges", "crowded_edges", "components"), 0)
        return {**zeros, "watertight": False, "area": 0.0, "volume": None, "bounds": None}
    _, counts = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    component = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    areas = np.bincount(component, mesh.area_faces)
    corners = mesh.triangles - mesh.vertices.mean(0)
    volumes = np.bincount(component, np.linalg.det(corners) / 6)  # signed: negative for cavities
    solid = bool((np.abs(volumes) > FLAT * areas**1.5).all())
    closed = bool(mesh.is_watertight and mesh.is_winding_consistent and solid)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": closed,
        "boundary_edges": int((counts == 1).sum()),
        "crowded_edges": int((counts > 2).sum()),
        "components": int(mesh.body_count),
        "area": float(areas.sum()),
        "volume": float(volumes.sum()) if closed else None,
        "bounds": mesh.bounds.tolist(),
    }
