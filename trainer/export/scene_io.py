"""Load scenes from files and configs, and convert between voxels and meshes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from trimesh.visual import ColorVisuals

from datamodules.shapes import normalize, read_binvox
from datamodules.shapes.procedural.heads import head_meshes
from datamodules.shapes.processing.voxelize import voxelize
from renderers import InputError, TriangleMesh, VoxelGrid
from renderers.meshes.marching_cubes import marching_cubes
from trainer.cli.config_composition import names_yaml
from trainer.runs.loading import ExperimentConfig

Scene = VoxelGrid | TriangleMesh
MAX_RADIUS = 1.5  # cameras show the unit ball, and generated meshes may extend slightly beyond it
MESHES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")


def load_scenes(
    name: str, *, up: str = "y", fit: bool = False, numbers: list[int] | None = None, overrides: list[str] | None = None
) -> Iterator[tuple[str, Scene]]:
    """Yield names and scenes of a file or a config. Scenes are batches of one in the world frame.

    Args:
        name: A mesh, binvox or npz file, or a config whose data have shapes.
        up: Up axis of mesh files, ``y`` or ``z``.
        fit: Center meshes at the origin and scale their longest side to 0.9.
        numbers: Numbers of the shapes of a config; default 0.
        overrides: Options such as ``--data.root=PATH``.

    Raises:
        InputError: A file cannot be read, or a mesh extends far beyond the unit ball, which cameras show.
    """
    if names_yaml(name):
        yield from _config_scenes(name, numbers or [0], overrides or [])
        return
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{path} is a directory; pass the files in it, such as {path}/*.obj")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    kind = path.suffix.lower()
    if kind in MESHES:
        yield path.stem, _mesh(path, up, fit)
    elif kind == ".binvox":
        yield path.stem, _grid(path, read_binvox(path).voxels)
    elif kind == ".npz":
        yield path.stem, _arrays(path)
    else:
        raise InputError(f"{path} has an unsupported format; pass {', '.join(MESHES)}, .binvox, .npz or .yaml")


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


def _config_scenes(name: str, numbers: list[int], overrides: list[str]) -> Iterator[tuple[str, Scene]]:
    data = ExperimentConfig(name, overrides).load_data()
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
    try:
        mesh = trimesh.load_mesh(path)
    except Exception as error:  # parsers raise arbitrary exceptions for corrupt files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is not a readable mesh ({reason[:120]}); export it again") from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise InputError(f"{path} has no triangles, or vertices that are not finite; export it again")
    mesh = mesh.copy()
    if up == "z":
        mesh.vertices = mesh.vertices[:, [0, 2, 1]] * (1, 1, -1)
    if fit:
        if not np.ptp(mesh.vertices, axis=0).max() > 0:
            raise InputError(f"{path} has no extent, so --fit cannot scale it")
        mesh = normalize(mesh)
    radius = float(np.linalg.norm(mesh.vertices, axis=1).max())
    if radius > MAX_RADIUS:
        raise InputError(
            f"{path} extends to {radius:.3g} from the origin, and cameras show only 1; pass --fit to scale it"
        )
    uvs, texture, colors = _colors(mesh)
    return TriangleMesh(_batch(mesh.vertices), torch.from_numpy(mesh.faces).long(), uvs, texture, None, colors)


def _colors(mesh: trimesh.Trimesh) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return UVs, texture and vertex colors; None for those that the mesh does not have."""
    visual = mesh.visual
    if isinstance(visual, ColorVisuals):
        if visual.kind == "vertex":
            return None, None, _batch(np.asarray(visual.vertex_colors)[:, :3] / 255)
        return None, None, None
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if visual is None or image is None or visual.uv is None:
        return None, None, None
    pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    uvs = np.asarray(visual.uv) * (1, -1) + (0, 1)  # trimesh counts v from the bottom
    return torch.from_numpy(uvs.clip(0, 1).astype(np.float32)), _batch(pixels), None


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
