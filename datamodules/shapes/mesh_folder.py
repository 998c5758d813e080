"""Mesh files of any supported format as solid voxel grids."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Bool

from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from datamodules.images.listing import OTHER_TYPE, describe_left_out, list_folder
from datamodules.shapes.base import check_voxel_size
from datamodules.shapes.processing.voxelize import normalize, voxelize
from datamodules.shapes.unusable import log_skipped, summarize_unusable
from renderers.mesh_files import SUFFIXES, read_mesh
from utils.errors import InputError
from utils.progress import Progress

log = logging.getLogger(__name__)


def find_meshes(folder: Path | str) -> list[Path]:
    """Find the mesh files below a folder, sorted folder by folder.

    The rule is that of images (:mod:`datamodules.images.listing`): links are followed, hidden files are left out. A warning
    lists what is left out, except files that are not meshes.

    Raises:
        InputError: there is no such folder, it has no mesh files, or a folder cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder.absolute()}; set folder to the folder of the mesh files")
    listing = list_folder(folder, SUFFIXES)
    left_out = {reason: names for reason, names in listing.left_out.items() if reason != OTHER_TYPE}
    if left_out:
        log.warning("%s: %s", folder, describe_left_out(left_out))
    if not listing.names:
        raise InputError(f"{folder} has no mesh files ({', '.join(SUFFIXES)})")
    return [folder / name for name in listing.names]


def load_solid(path: Path, size: int) -> Bool[np.ndarray, "D D D"]:
    """Return a mesh file as a solid grid ``[z, y, x]``, centred, with its longest side at 0.9 of the cube.

    Raises:
        InputError: the file cannot be read.
    """
    mesh = read_mesh(path, materials=False)
    return voxelize(normalize(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)), size)


def voxelize_files(
    files: Sequence[Path], size: int, on_corrupt: OnCorrupt = "raise"
) -> tuple[Bool[np.ndarray, "N D D D"], list[Path]]:
    """Return mesh files as solid grids ``[z, y, x]`` (:func:`load_solid`), and the files that they are from.

    Args:
        files: mesh files, y up, the front toward +z.
        size: voxels per edge, D.
        on_corrupt: whether files that cannot be read are an error that lists them (raise), or are left out with a warning
            that lists them (skip).

    Raises:
        InputError: a file cannot be read, or with ``skip`` none can.
    """
    check_on_corrupt(on_corrupt)
    check_voxel_size(size)
    solids, used, messages = [], [], []
    with Progress(len(files), "voxelizing meshes", "file") as bar:
        for path in files:
            try:
                solids.append(load_solid(path, size))
                used.append(path)
            except InputError as error:
                messages.append(error.message)
            bar.update()
    if messages and on_corrupt == "raise":
        raise summarize_unusable(
            messages, len(files), "repair or remove them, or leave them out with on_corrupt='skip'"
        )
    log_skipped(messages, len(files), files[0].parent if files else ".")
    return np.stack(solids) if solids else np.zeros((0, size, size, size), bool), used
