"""Files and configs as scenes to draw, and scenes of one kind as those of another."""

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
from renderers.meshes.marching_cubes import marching_cubes
from trainer.cli.config_composition import names_yaml
from trainer.runs.data_loading import DataOf

Scene = VoxelGrid | TriangleMesh
REACH = 1.5  # from the origin; cameras show the unit ball, of which generated meshes may stand out a little
MESHES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")


def scenes_of(
    name: str, *, up: str = "y", fit: bool = False, numbers: list[int] | None = None, overrides: list[str] | None = None
) -> Iterator[tuple[str, Scene]]:
    """What a file or a config holds: names and batches of one, world frame.

    Args:
        name: a mesh, binvox or npz, or a config whose data have shapes.
        up: of mesh files, y or z.
        fit: move and scale meshes so that their longest side is 0.9, about the origin.
        numbers: which shapes of a config.
        overrides: options such as ``--data.root=PATH``.

    Raises:
        InputError: files that cannot be used; meshes that reach far beyond the unit ball, which is what cameras show.
    """
    if names_yaml(name):
        yield from _shapes_of(name, numbers or [0], overrides or [])
        return
    path = Path(name)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the files in it, as {path}/*.obj")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind in MESHES:
        yield path.stem, _mesh(path, up, fit)
    elif kind == ".binvox":
        yield path.stem, _grid(path, read_binvox(path).voxels)
    elif kind == ".npz":
        yield path.stem, _arrays(path)
    else:
        raise InputError(f"{path} is of an unknown kind; {', '.join(MESHES)}, .binvox, .npz and .yaml can be drawn")


def as_voxels(scene: Scene, size: int) -> VoxelGrid:
    """A mesh as solid voxels, without its colours; voxels as they are."""
    if isinstance(scene, VoxelGrid):
        return scene
    mesh = trimesh.Trimesh(scene.vertices[0].numpy(), scene.faces.numpy(), process=False)
    return VoxelGrid(torch.from_numpy(voxelize(mesh, size).astype(np.float32))[None, None])


def as_mesh(scene: Scene, threshold: float) -> TriangleMesh:
    """The surface of voxels, by marching cubes, without their colours; a mesh as it is."""
    if isinstance(scene, TriangleMesh):
        return scene
    vertices, faces, normals = marching_cubes((scene.occupancy[0, 0] > threshold).numpy())
    return TriangleMesh(_batch(vertices), torch.from_numpy(faces).long(), normals=_batch(normals))


def _shapes_of(name: str, numbers: list[int], overrides: list[str]) -> Iterator[tuple[str, Scene]]:
    data = DataOf(name, overrides).load()
    if (heads := getattr(data, "heads", None)) is not None:
        for i in numbers:
            yield f"head-{i:04d}", head_meshes([heads.head(i)])
        return
    shapes = getattr(data, "shapes", None)
    if shapes is None:
        raise InputError(f"{name} has no shapes to draw: its images are made by {type(data).__name__}")
    for i in numbers:
        if i >= len(shapes):
            raise InputError(f"{name} has {len(shapes):,} shapes, --shapes asks for number {i}")
        yield Path(shapes.name(i)).name, shapes[i].voxels


def _mesh(path: Path, up: str, fit: bool) -> TriangleMesh:
    try:
        mesh = trimesh.load_mesh(path)
    except Exception as error:  # a damaged file makes its parsers fail in any way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no mesh that can be read ({reason[:120]}); export it again") from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise InputError(f"{path} holds no triangles that can be drawn")
    mesh = mesh.copy()
    if up == "z":
        mesh.vertices = mesh.vertices[:, [0, 2, 1]] * (1, 1, -1)
    if fit:
        if not np.ptp(mesh.vertices, axis=0).max() > 0:
            raise InputError(f"{path} has no extent")
        mesh = normalize(mesh)
    reach = float(np.linalg.norm(mesh.vertices, axis=1).max())
    if reach > REACH:
        raise InputError(f"{path} reaches {reach:.3g} from the origin, and cameras show 1; add --fit to scale it")
    uvs, texture, colors = _colors(mesh)
    return TriangleMesh(_batch(mesh.vertices), torch.from_numpy(mesh.faces).long(), uvs, texture, None, colors)


def _colors(mesh: trimesh.Trimesh) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """UVs, texture and vertex colours, as far as the mesh has them."""
    visual = mesh.visual
    if visual.kind == "vertex":
        return None, None, _batch(np.asarray(visual.vertex_colors)[:, :3] / 255)
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if visual.kind != "texture" or image is None or visual.uv is None:
        return None, None, None
    pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
    uvs = np.asarray(visual.uv) * (1, -1) + (0, 1)  # trimesh counts v from below
    return torch.from_numpy(uvs.clip(0, 1).astype(np.float32)), _batch(pixels), None


def _arrays(path: Path) -> Scene:
    """An export's NPZ, or any with one array of voxels ``[z, y, x]``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is no npz that can be read; export it again") from error
    if {"vertices", "faces", "uvs", "texture"} <= arrays.keys():
        vertices, faces, uvs, texture = (torch.from_numpy(arrays[k]) for k in ("vertices", "faces", "uvs", "texture"))
        return TriangleMesh(vertices[None].float(), faces.long(), uvs.float(), texture[None].float())
    cubes = {name: a for name, a in arrays.items() if a.ndim == 3 and len(set(a.shape)) == 1}
    name = "occupancy" if "occupancy" in cubes else next(iter(cubes)) if len(cubes) == 1 else None
    if name is None:
        raise InputError(f"{path} holds neither an export's mesh nor one array of voxels (D, D, D)")
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
