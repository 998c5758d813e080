"""Surfaces without texture as files, and what is to be said of them before anybody prints or simulates them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Integer

from utils.files import write_atomically

_NOTHING = b'{"asset":{"version":"2.0"}} '  # padded to a multiple of 4 bytes, as GLB asks
EMPTY = {  # trimesh refuses to export nothing
    "glb": struct.pack("<4sIIII", b"glTF", 2, 20 + len(_NOTHING), len(_NOTHING), 0x4E4F534A) + _NOTHING,
    "obj": b"# an empty shape\n",
    "ply": b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 0\nproperty list uchar int vertex_indices\nend_header\n",
    "stl": bytes(80) + struct.pack("<I", 0),
}
NORMALS: dict[str, dict[str, Any]] = {  # trimesh's options, by format
    "glb": {"include_normals": True},
    "obj": {"include_normals": True},
    "ply": {"vertex_normal": True},
    "stl": {},
}


def write_surface(
    path: Path,
    vertices: Float[np.ndarray, "V 3"],
    faces: Integer[np.ndarray, "F 3"],
    normals: Float[np.ndarray, "V 3"] | None = None,
    colors: Float[np.ndarray, "V 3"] | None = None,
) -> None:
    """One mesh as GLB, OBJ, PLY or binary STL, by the path's suffix; without faces, a valid file that is empty.

    Args:
        path: the file.
        vertices: world frame.
        faces: counter-clockwise seen from outside.
        normals: of the vertices, unit, or None for means over the faces around them.
        colors: of the vertices, in [0, 1], or None; STL has none.
    """
    kind = path.suffix.removeprefix(".")
    if not len(faces):
        write_atomically(path, lambda file: file.write_bytes(EMPTY[kind]) and None)
        return
    pixels = None if colors is None else (np.clip(colors, 0, 1) * 255).round().astype(np.uint8)
    normals = _unit(vertices, faces, normals)
    mesh = trimesh.Trimesh(vertices, faces, vertex_normals=normals, vertex_colors=pixels, process=False)
    content = mesh.export(file_type=kind, **NORMALS[kind])
    content = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write_bytes(content) and None)


def _unit(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray | None) -> Float[np.ndarray, "V 3"]:
    """Vertex normals of length 1, which glTF demands: where they vanish, as in the saddle between two voxels that touch at
    an edge, that of a face.
    """
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    normals = np.array(mesh.vertex_normals if normals is None else normals, np.float64)
    missing = np.linalg.norm(normals, axis=1) < 0.5
    corner = missing[faces]
    normals[faces[corner]] = np.repeat(mesh.face_normals[:, None], 3, 1)[corner]
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-6)).astype(np.float32)


def mesh_statistics(vertices: Float[np.ndarray, "V 3"], faces: Integer[np.ndarray, "F 3"]) -> dict[str, Any]:
    """Whether a surface is closed, and where it is not; vertices at one place count as one.

    Returns ``vertices`` and ``faces`` (counts), ``watertight`` (every edge has two faces, wound against each other),
    ``boundary_edges`` (of one face), ``crowded_edges`` (of more than two), ``components``, ``area``, and ``volume`` (None
    unless watertight), in the units of the vertices; ``bounds``, the lowest and the highest corner.
    """
    if not len(faces):
        nothing = dict.fromkeys(("vertices", "faces", "boundary_edges", "crowded_edges", "components"), 0)
        return {**nothing, "watertight": False, "area": 0.0, "volume": None, "bounds": None}
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces(height=0))
    _, counts = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    closed = bool(mesh.is_watertight and mesh.is_winding_consistent)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": closed,
        "boundary_edges": int((counts == 1).sum()),
        "crowded_edges": int((counts > 2).sum()),
        "components": int(mesh.body_count),
        "area": float(mesh.area),
        "volume": float(mesh.volume) if closed else None,
        "bounds": mesh.bounds.tolist(),
    }
