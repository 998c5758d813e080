"""Load scenes from files and configs, and convert between voxels and meshes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh
from torch import Tensor

from datamodules.shapes import normalize, read_binvox
from datamodules.shapes.procedural.heads import head_meshes
from datamodules.shapes.processing.voxelize import voxelize
from renderers import InputError, TriangleMesh, VoxelGrid
from renderers.mesh_files import SUFFIXES, read_mesh
from renderers.meshes.crease_normals import crease_normals, orient_faces
from renderers.meshes.marching_cubes import marching_cubes
from renderers.scenes import TOLERANCE
from trainer.cli.config_composition import names_yaml
from trainer.runs.loading import ExperimentConfig

Scene = VoxelGrid | TriangleMesh
MESH_ARRAYS = ("vertices", "faces", "uvs", "texture")  # of a mesh in an NPZ of export
FLOAT_MAX = np.finfo(np.float32).max
MAX_RADIUS = 1.5  # cameras show the unit ball, and generated meshes may extend slightly beyond it
MIN_EXTENT = 0.02  # of the longest side of a mesh; a pixel of a 64² image is 0.03 wide


def load_scenes(
    name: str,
    *,
    up: str = "y",
    fit: bool = False,
    numbers: list[int] | None = None,
    overrides: list[str] | None = None,
    trust: bool = False,
) -> Iterator[tuple[str, Scene]]:
    """Yield names and scenes of a file or a config. Scenes are batches of one in the world frame.

    Args:
        name: A mesh, binvox or npz file, or a config whose data have shapes.
        up: Up axis of meshes, ``y`` or ``z``.
        fit: Center meshes at the origin and scale their longest side to 0.9.
        numbers: Numbers of the shapes of a config; default 0.
        overrides: Options such as ``--data.root=PATH``.
        trust: Load any class that the config of a run names.

    Raises:
        InputError: A file cannot be read, or a mesh is outside the unit ball, which cameras show, extends far beyond it,
            or is too small to be seen.
    """
    if names_yaml(name):
        yield from _config_scenes(name, numbers or [0], overrides or [], trust)
        return
    path = Path(name)
    kind = _suffix(path)
    if kind == ".npz":
        yield path.stem, _arrays(path, up, fit)
    elif kind == ".binvox":
        yield path.stem, _grid(path, read_binvox(path).voxels)
    else:
        yield path.stem, _mesh(path, up, fit)


def input_kind(name: str) -> Literal["config", "mesh", "voxels"]:
    """Return what :func:`load_scenes` loads from a file or a config, which it does not load.

    Raises:
        InputError: There is no such file, or its format is not supported.
    """
    if names_yaml(name):
        return "config"
    path = Path(name)
    kind = _suffix(path)
    if kind == ".npz":
        with _open_npz(path) as file:
            return "mesh" if file.keys() >= set(MESH_ARRAYS) else "voxels"
    return "mesh" if kind in SUFFIXES else "voxels"


def _suffix(path: Path) -> str:
    """Return the lower-case suffix of a file of a supported format."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; pass the files in it, such as {path}/*.obj")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if (suffix := path.suffix.lower()) not in (*SUFFIXES, ".binvox", ".npz"):
        raise InputError(f"{path} has an unsupported format; pass {', '.join(SUFFIXES)}, .binvox, .npz or .yaml")
    return suffix


def as_voxels(scene: Scene, size: int) -> VoxelGrid:
    """Convert a mesh in the cube [-1/2, 1/2]³ to solid voxels without colors; return voxels unchanged."""
    if isinstance(scene, VoxelGrid):
        return scene
    mesh = trimesh.Trimesh(scene.vertices[0].numpy(), scene.faces.numpy(), process=False)
    return VoxelGrid(torch.from_numpy(voxelize(mesh, size).astype(np.float32))[None, None])


def as_mesh(scene: Scene, threshold: float) -> TriangleMesh:
    """Convert voxels to their surface by marching cubes, without colors; return a mesh unchanged."""
    if isinstance(scene, TriangleMesh):
        return scene
    vertices, faces, normals = marching_cubes((scene.occupancy[0, 0] > threshold).numpy())
    return TriangleMesh(_batch(vertices), torch.from_numpy(faces).long(), normals=_batch(normals))


def _config_scenes(name: str, numbers: list[int], overrides: list[str], trust: bool) -> Iterator[tuple[str, Scene]]:
    data = ExperimentConfig(name, overrides, trust=trust or None).load_data()
    if (heads := getattr(data, "heads", None)) is not None:
        for i in numbers:
            yield f"head-{i:04d}", head_meshes([heads.head(i)])
        return
    shapes = getattr(data, "shapes", None)
    if shapes is None:
        raise InputError(f"{name} has no shapes to render: its images come from {type(data).__name__}")
    for i in numbers:
        if i >= len(shapes):
            raise InputError(f"{name} has {len(shapes):,} shapes, numbered from 0; --shapes requests number {i}")
        yield Path(shapes.name(i)).name, shapes[i].voxels


def _mesh(path: Path, up: str, fit: bool) -> TriangleMesh:
    mesh = read_mesh(path)
    vertices = _place(path, mesh.vertices, mesh.faces, up, fit)
    faces = orient_faces(vertices, mesh.faces)
    normals = crease_normals(vertices, faces).reshape(-1, 3).astype(np.float32)
    # Corners of one vertex share it unless their normals differ.
    keys = np.concatenate([faces.reshape(-1, 1), (normals * 1e4).round().astype(np.int64)], 1)
    _, first, corner = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    old = faces.reshape(-1)[first]
    return TriangleMesh(
        _batch(vertices[old]),
        torch.from_numpy(corner.reshape(-1, 3)).long(),
        None if mesh.uvs is None else torch.from_numpy(mesh.uvs[old].astype(np.float32)),
        None if mesh.texture is None else _batch(mesh.texture.astype(np.float32).transpose(2, 0, 1) / 255),
        _batch(normals[first]),
        None if mesh.colors is None else _batch(mesh.colors[old]),
    )


def _place(path: Path, vertices: np.ndarray, faces: np.ndarray, up: str, fit: bool) -> np.ndarray:
    """Return the vertices of a mesh in the world frame, where the cameras see them."""
    if up == "z":
        vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
    if fit:
        vertices = normalize(trimesh.Trimesh(vertices, faces, process=False)).vertices
    radius = float(np.linalg.norm(vertices, axis=1).max())
    if radius > MAX_RADIUS:
        raise InputError(
            f"{path} extends to {radius:.3g} from the origin, and cameras show only 1; pass --fit to scale it"
        )
    low, high = vertices.min(0), vertices.max(0)
    if (nearest := float(np.linalg.norm(np.clip(0, low, high)))) > 1:
        raise InputError(
            f"{path} starts {nearest:.3g} from the origin, and cameras show only 1; pass --fit to center it"
        )
    if (extent := float((high - low).max())) < MIN_EXTENT:
        raise InputError(f"the longest side of {path} is {extent:.3g}, and cameras show 2; pass --fit to scale it")
    return vertices


def _arrays(path: Path, up: str, fit: bool) -> Scene:
    """Load an NPZ written by ``export``, or one with a single array of voxels ``[z, y, x]``."""
    with _open_npz(path) as file:
        arrays = {name: np.asarray(values) for name, values in file.items()}
    if arrays.keys() >= set(MESH_ARRAYS):
        return _exported_mesh(path, arrays, up, fit)
    if "occupancy" in arrays:
        return _grid(path, arrays["occupancy"], arrays.get("color"))
    cubes = [a for a in arrays.values() if a.ndim == 3 and len(set(a.shape)) == 1]
    if len(cubes) != 1:
        raise InputError(f"{path} contains neither a mesh of export nor a single array of voxels (D, D, D)")
    return _grid(path, cubes[0])


@contextmanager
def _open_npz(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Open an NPZ file to read its arrays.

    Raises:
        InputError: It is none, or damaged.
    """
    try:
        if not zipfile.is_zipfile(path):  # np.load also reads other files
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as file:
            yield file
    except Exception as error:  # zipfile, zlib and numpy may raise anything on a corrupt file, also MemoryError
        raise InputError(f"{path} is not a readable npz; export it again") from error


def _exported_mesh(path: Path, arrays: dict[str, np.ndarray], up: str, fit: bool) -> TriangleMesh:
    vertices, faces, uvs, texture = (arrays[name] for name in MESH_ARRAYS)
    if not (_is_real(vertices, (None, 3)) and (abs(vertices) < FLOAT_MAX).all() and (vertices != vertices[0]).any()):
        wrong = "vertices must be finite numbers (V, 3), not all at one point"
    elif not (
        faces.dtype.kind in "iu" and _is_real(faces, (None, 3)) and 0 <= faces.min() <= faces.max() < len(vertices)
    ):
        wrong = f"faces must be integers (F, 3) that index {len(vertices)} vertices"
    elif not (_is_real(uvs, (len(vertices), 2)) and (abs(uvs) < FLOAT_MAX).all()):
        wrong = f"uvs must be finite numbers ({len(vertices)}, 2), one pair per vertex"
    elif not (
        _is_real(texture, (None, None, None))
        and len(texture) in (1, 3)
        and (abs(texture - 0.5) < 0.5 + TOLERANCE).all()
    ):
        wrong = "texture must be numbers (C, H, W) in [0, 1] with C = 1 or 3"
    else:
        placed = _place(path, vertices.astype(np.float64), faces, up, fit)
        return TriangleMesh(_batch(placed), torch.from_numpy(faces.astype(np.int64)), _batch(uvs)[0], _batch(texture))
    raise InputError(f"{path}: {wrong}; export it again")


def _is_real(values: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    """Return whether an array has real numbers, at least one, and a shape. None is any length."""
    fits = values.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
    return fits and values.dtype.kind in "biuf" and values.size > 0


def _grid(path: Path, occupancy: np.ndarray, color: np.ndarray | None = None) -> VoxelGrid:
    if not _is_real(occupancy, (None, None, None)) or len(set(occupancy.shape)) != 1:
        raise InputError(f"{path}: voxels must be real numbers (D, D, D) with D of at least 1; export it again")
    if color is not None and not (_is_real(color, (None, *occupancy.shape)) and len(color) in (1, 3)):
        size = len(occupancy)
        raise InputError(f"{path}: color must be numbers (C, {size}, {size}, {size}) with C = 1 or 3; export it again")
    grid = VoxelGrid(_batch(occupancy)[None], None if color is None else _batch(color))
    try:
        grid.check()
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return grid


def _batch(values: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which callers refuse
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
