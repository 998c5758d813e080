"""Read a mesh file of any supported format."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from renderers.mesh_files.gltf import read_gltf
from renderers.mesh_files.images import read_file
from renderers.mesh_files.obj import read_obj
from renderers.mesh_files.off import read_off
from renderers.mesh_files.parts import POINTS_AND_LINES, MeshError, Notes, Part, check_indices
from renderers.mesh_files.ply import read_ply
from renderers.mesh_files.polygons import number_positions
from renderers.mesh_files.stl import read_stl
from renderers.mesh_files.texture_atlas import unify_texture
from utils.errors import InputError, printable

log = logging.getLogger(__name__)
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
MAX_BYTES = 2**30
_FLAT = 1e-12  # height of a triangle relative to its longest edge
_WHITE = 1e-6  # rounding of the conversion to sRGB
_MAX_COORDINATE = 1e9  # beyond it, shapes are lost to rounding


@dataclass(frozen=True)
class MeshFile:
    """The triangles of a mesh file, in its frame and units.

    Args:
        vertices: positions; every one belongs to a face.
        faces: vertex indices, counter-clockwise seen from outside if the file says so.
        uvs: texture coordinates in [0, 1], (0, 0) at the top left; None without a texture.
        texture: sRGB pixels, row 0 at the top; several textures of a file are packed into one.
        colors: sRGB colours of the vertices in [0, 1], multiplied with the texture; None for white.
    """

    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    uvs: Float[np.ndarray, "V 2"] | None = None
    texture: UInt8[np.ndarray, "H W 3"] | None = None
    colors: Float[np.ndarray, "V 3"] | None = None


def read_mesh(path: Path | str, materials: bool = True) -> MeshFile:
    """Read an OBJ, OFF, PLY, STL, glTF or GLB file.

    Polygons are split into triangles, also concave ones. Faces without extent, and faces that repeat another one in either
    winding, as in two-sided meshes, are dropped. What changes only the appearance and is not supported (a missing texture,
    transparency, emission) is logged as a warning.

    Args:
        path: the file; its suffix determines the format.
        materials: whether to read colours and textures; without them there are no warnings about them.

    Raises:
        InputError: the file cannot be read correctly; the message names the file and the reason.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise InputError(f"{path} has an unsupported format; pass {', '.join(SUFFIXES)}")
    notes = Notes()
    try:
        if not path.is_file():
            raise InputError(f"no such file: {path}")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(
                f"{path} is {size / 2**20:,.0f} MiB, larger than the limit of {MAX_BYTES / 2**20:,.0f} MiB"
            )
        parts = _parse(path, kind, notes, materials)
        parts = [_checked(part) for part in parts if len(part.faces)]
        if not parts:
            raise MeshError("has no triangles" + (", only points or lines" if POINTS_AND_LINES in notes.lines else ""))
        mesh = _join(parts, materials)
    except MeshError as error:
        raise InputError(f"{path} {error}") from error
    except OSError as error:
        file = Path(error.filename or path)
        unreadable = path if file == path else f"{path} refers to {file}, which"
        raise InputError(
            f"{unreadable} cannot be read ({error.strerror}); check its permissions and its disk"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path} needs more memory than there is; simplify it") from error
    if materials:
        for line in notes.lines:
            log.warning("%s", printable(f"{path}: {line}"))
    return mesh


def _parse(path: Path, kind: str, notes: Notes, materials: bool) -> list[Part]:
    content = read_file(path).removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise MeshError("is empty")
    if kind == ".obj":
        return read_obj(content, path.parent, notes, materials)
    if kind == ".off":
        return read_off(content.decode(errors="replace"))
    if kind == ".ply":
        return read_ply(content, path.parent, notes)
    if kind == ".stl":
        return read_stl(content, notes)
    return read_gltf(content, path.parent, notes)


def _checked(part: Part) -> Part:
    check_indices(part.faces, len(part.vertices))
    used = np.unique(part.faces)
    if not (np.abs(part.vertices[used]) < _MAX_COORDINATE).all():  # also false for NaN
        raise MeshError("has coordinates that are not finite, or above 1e9")
    if part.uvs is not None and not (np.abs(part.uvs[used]) < _MAX_COORDINATE).all():
        raise MeshError("has texture coordinates that are not finite, or above 1e9")
    if part.colors is not None and not np.isfinite(part.colors[used]).all():
        raise MeshError("has colours that are not finite")
    return part


def _join(parts: list[Part], materials: bool) -> MeshFile:
    texture = None
    if materials:
        parts, texture = unify_texture(parts)
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])
    faces = np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=False)]).astype(np.int64)
    faces = drop_repeated(vertices, faces)
    if not _have_extent(vertices, faces):
        raise MeshError("has only triangles without extent")
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    uvs = colors = None
    if materials:
        if texture is not None:
            uvs = _gather([part.uvs for part in parts], parts, 2)[used]
        colors = _gather([part.colors for part in parts], parts, 3)[used]
        colors = None if (colors > 1 - _WHITE).all() else colors
    if uvs is None and colors is None:  # STL files, for example, repeat a vertex for every face
        vertices, position = np.unique(vertices, axis=0, return_inverse=True)
        faces = position.reshape(-1)[faces]
    return MeshFile(vertices, faces, uvs, texture, colors)


def _have_extent(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether some triangle is more than a point or a line."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.max([((x - y) ** 2).sum(1) for x, y in ((a, b), (b, c), (c, a))], axis=0)
    return bool((area > _FLAT * longest).any())


def _gather(values: Sequence[np.ndarray | None], parts: list[Part], width: int) -> np.ndarray:
    """Concatenate values of vertices; missing ones are 1."""
    pairs = zip(values, parts, strict=True)
    return np.concatenate([np.ones((len(part.vertices), width)) if v is None else v for v, part in pairs])


def drop_repeated(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "G 3"]:
    """Return the faces that have extent, the first of those with the same three positions in any order."""
    corners = np.sort(number_positions(vertices)[faces], axis=1)
    distinct = (np.diff(corners, axis=1) > 0).all(1)
    _, first = np.unique(corners, axis=0, return_index=True)
    keep = np.zeros(len(faces), bool)
    keep[first] = True
    return faces[keep & distinct]
