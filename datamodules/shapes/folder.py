"""Mesh and binvox files of a folder."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from jaxtyping import Bool

from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from datamodules.images.listing import OTHER_TYPE, describe_left_out, list_folder
from datamodules.shapes.base import (
    Shape,
    ShapeSource,
    Split,
    check_split,
    check_voxel_size,
    digest,
    file_stamp,
    to_voxel_grid,
)
from datamodules.shapes.processing.binvox import read_binvox
from datamodules.shapes.processing.resample import fit_to_cube
from datamodules.shapes.processing.voxelize import normalize, voxelize
from datamodules.shapes.unusable import readable_names, warn_first_process
from renderers.mesh_files import SUFFIXES as MESH_SUFFIXES
from renderers.mesh_files import read_mesh
from utils.errors import InputError, check_choice, check_number

VERSION = 1  # increase when the same files give other shapes
SUFFIXES = (*MESH_SUFFIXES, ".binvox")


class ShapeFolder(ShapeSource):
    """The meshes and binvox files below a folder, each centred, with its longest side at 0.9 of the cube.

    The rule of files is that of images (:mod:`datamodules.images.listing`): links are followed, hidden files are left out.
    A warning lists what is left out, except files of other types. A shape's name is its path below the folder.

    The test split has the ``test_fraction`` of the files whose names have the lowest hashes, at least one and not all.

    Args:
        root: the folder.
        voxel_size: voxels per edge.
        split: train, test or all.
        test_fraction: fraction of the files in the test split.
        up: the vertical axis of the files. If it is z, their -y faces the viewer at azimuth 0, else their +z.
        turns: quarter turns about the vertical, counter-clockwise seen from above, for files that face elsewhere.
        on_corrupt: whether a file that cannot be read is an error (raise), or is left out with a warning (skip). ``skip``
            reads all files once; the result is cached.

    Raises:
        InputError: the folder does not exist or cannot be read, an argument is invalid, or the split has no usable file.
    """

    def __init__(
        self,
        root: str | Path,
        voxel_size: int = 64,
        split: Split = "all",
        test_fraction: float = 0.2,
        up: Literal["y", "z"] = "y",
        turns: int = 0,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        check_voxel_size(voxel_size)
        check_split(split)
        check_number("test_fraction", test_fraction, above=0, below=1)
        check_choice("up", up, ("y", "z"))
        check_on_corrupt(on_corrupt)
        self.root = Path(root)
        self.voxel_size = voxel_size
        self.split: Split = split
        self.test_fraction, self.up, self.turns, self.on_corrupt = test_fraction, up, turns, on_corrupt
        if not self.root.is_dir():
            raise InputError(f"no such folder: {self.root.absolute()}; set root to the folder of the mesh files")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Shape:
        name = self.name(index)
        solid = load_solid(self.root / name, self.voxel_size, self.up)
        # Seen from above (x right, z down), a turn maps z to x: axis 0 to axis 2.
        return Shape(name, to_voxel_grid(np.rot90(solid, self.turns, axes=(0, 2))))

    def check(self, index: int) -> None:
        check_shape_file(self.root / self.name(index))

    def name(self, index: int) -> str:
        return self._names[self._check_index(index)]

    def cache_key(self) -> str:
        files = tuple((name, *file_stamp(self.root / name)) for name in self._names)
        return digest("folder", VERSION, self.voxel_size, self.up, self.turns, files)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_names"}

    @cached_property
    def _names(self) -> list[str]:
        """Paths of the split's usable files below the folder, sorted folder by folder."""
        listing = list_folder(self.root, SUFFIXES)
        left_out = {reason: names for reason, names in listing.left_out.items() if reason != OTHER_TYPE}
        if left_out:
            warn_first_process(f"{self.root}: {describe_left_out(left_out)}")
        if not listing.names:
            raise InputError(f"{self.root} has no mesh or binvox files ({', '.join(SUFFIXES)})")
        names = listing.names
        if self.on_corrupt == "skip":
            names = readable_names(names, self.root, VERSION, check_shape_file)
        if self.split == "all":
            return names
        if len(names) < 2:
            raise InputError(
                f"{self.root} has only one usable file, so none can be kept for evaluation; add files, or set split to all "
                "for shapes and for reference_shapes"
            )
        ordered = sorted(names, key=lambda name: hashlib.blake2b(os.fsencode(name), digest_size=8).digest())
        count = min(max(1, round(self.test_fraction * len(names))), len(names) - 1)
        chosen = set(ordered[:count] if self.split == "test" else ordered[count:])
        return [name for name in names if name in chosen]


def load_solid(path: Path, size: int, up: str = "y") -> Bool[np.ndarray, "D D D"]:
    """Return a mesh or binvox file as a solid grid ``[z, y, x]``, centred, with its longest side at 0.9 of the cube.

    Args:
        path: the file.
        size: voxels per edge, D.
        up: the file's vertical axis. If it is z, our (x, y, z) is the file's (x, z, -y).

    Raises:
        InputError: the file cannot be read or is empty.
    """
    if path.suffix.lower() == ".binvox":
        voxels = _read_voxels(path)
        return fit_to_cube(voxels.transpose(1, 0, 2)[::-1] if up == "z" else voxels, size)
    mesh = read_mesh(path, materials=False)
    x, y, z = mesh.vertices.T
    vertices = np.stack([x, z, -y], axis=1) if up == "z" else mesh.vertices
    return voxelize(normalize(trimesh.Trimesh(vertices, mesh.faces, process=False)), size)


def check_shape_file(path: Path) -> None:
    """Raise an :class:`InputError` if a mesh or binvox file cannot be read or is empty, without voxelizing it."""
    if path.suffix.lower() == ".binvox":
        _read_voxels(path)
    else:
        read_mesh(path, materials=False)


def _read_voxels(path: Path) -> Bool[np.ndarray, "D D D"]:
    voxels = read_binvox(path).voxels
    if not voxels.any():
        raise InputError(f"{path} is empty")
    return voxels
