"""Load scenes from files and configs, and convert between voxels and meshes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

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
from trainer.cli.config_composition import names_yaml
from trainer.runs.loading import ExperimentConfig

Scene = VoxelGrid | TriangleMesh
MAX_RADIUS = 1.5  # cameras show the unit ball, and generated meshes may extend slightly beyond it


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
        up: Up axis of mesh files, ``y`` or ``z``.
        fit: Center meshes at the origin and scale their longest side to 0.9.
        numbers: Numbers of the shapes of a config; default 0.
        overrides: Options such as ``--data.root=PATH``.
        trust: Load any class that the config of a run names.

    Raises:
        InputError: A file cannot be read, or a mesh extends far beyond the unit ball, which cameras show.
    """
    if names_yaml(name):
        yield from _config_scenes(name, numbers or [0], overrides or [], trust)
        return
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{path} is a directory; pass the files in it, such as {path}/*.obj")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    kind = path.suffix.lower()
    if kind in SUFFIXES:
        yield path.stem, _mesh(path, up, fit)
    elif kind == ".binvox":
        yield path.stem, _grid(path, read_binvox(path).voxels)
    elif kind == ".npz":
        yield path.stem, _arrays(path)
    else:
        raise InputError(f"{path} has an unsupported format; pass {', '.join(SUFFIXES)}, .binvox, .npz or .yaml")


def as_voxels(scene: Scene, size: int) -> VoxelGrid:
    """Convert a mesh to solid voxels without colors; return voxels unchanged."""
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
    vertices = mesh.vertices
    if up == "z":
        vertices = vertices[:, [0, 2, 1]] * (1, 1, -1)
    if fit:
        vertices = normalize(trimesh.Trimesh(vertices, mesh.faces, process=False)).vertices
    radius = float(np.linalg.norm(vertices, axis=1).max())
    if radius > MAX_RADIUS:
        raise InputError(
            f"{path} extends to {radius:.3g} from the origin, and cameras show only 1; pass --fit to scale it"
        )
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


def _arrays(path: Path) -> Scene:
    """Load an NPZ written by ``export``, or one with a single array of voxels ``[z, y, x]``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not a readable npz; export it again") from error
    if {"vertices", "faces", "uvs", "texture"} <= arrays.keys():
        vertices, faces, uvs, texture = (torch.from_numpy(arrays[k]) for k in ("vertices", "faces", "uvs", "texture"))
        return TriangleMesh(vertices[None].float(), faces.long(), uvs.float(), texture[None].float())
    cubes = {name: a for name, a in arrays.items() if a.ndim == 3 and len(set(a.shape)) == 1}
    name = "occupancy" if "occupancy" in cubes else next(iter(cubes)) if len(cubes) == 1 else None
    if name is None:
        raise InputError(f"{path} contains neither a mesh of export nor a single array of voxels (D, D, D)")
    return _grid(path, cubes[name], arrays.get("color") if name == "occupancy" else None)


def _grid(path: Path, occupancy: np.ndarray, color: np.ndarray | None = None) -> VoxelGrid:
    grid = VoxelGrid(_batch(occupancy)[None].float(), None if color is None else _batch(color).float())
    try:
        grid.check()
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return grid


def _batch(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
