"""Base class of shape sources: indexable collections of named voxel grids."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool

from renderers.mesh_files import buffer_files
from renderers.scenes import VoxelGrid
from utils.errors import InputError, check_choice, check_number

Split = Literal["train", "test", "all"]
MAX_VOXEL_SIZE = 512


@dataclass(frozen=True)
class Shape:
    """One shape of a source.

    Args:
        name: unique within its source, and the same on every machine.
        voxels: a batch of one, ``(1, 1, D, D, D)`` float32 of 0 and 1, ``[b, c, z, y, x]``, y up. Shapes with a front face
            +z, toward the viewer at azimuth 0. Coloured sources add RGB ``(1, 3, D, D, D)``.
    """

    name: str
    voxels: VoxelGrid


class ShapeSource(ABC):
    """A fixed, indexable collection of shapes.

    Sources must be cheap to construct, because a config is checked by constructing them, and picklable, because workers get
    copies. A missing file or folder is an :class:`InputError` at construction.

    Attributes:
        voxel_size: voxels per edge, D.
        colored: whether the shapes have colours.
    """

    voxel_size: int
    colored: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Shape:
        """Return the shape at ``0 <= index < len(self)``, a function of the index and the constructor's arguments alone.

        Raises:
            IndexError: the index is out of range.
            InputError: a file is unusable.
        """

    def check(self, index: int) -> None:
        """Raise an :class:`InputError` if the shape's file is unusable; faster than loading the shape where it can be."""
        self[index]

    @abstractmethod
    def name(self, index: int) -> str:
        """Return ``self[index].name`` without loading the shape."""

    @abstractmethod
    def cache_key(self) -> str:
        """Return a hash that changes whenever a shape, or the order of shapes, may have changed."""

    def __iter__(self) -> Iterator[Shape]:
        return (self[i] for i in range(len(self)))

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"shape index {index} is out of range for {len(self)} shapes")
        return index


def to_voxel_grid(solid: Bool[np.ndarray, "D D D"]) -> VoxelGrid:
    """Convert a boolean grid ``[z, y, x]`` to a batch of one."""
    return VoxelGrid(torch.from_numpy(np.ascontiguousarray(solid).astype(np.float32))[None, None])


def in_split(name: str, split: Split, test_fraction: float) -> bool:
    """Return whether the model called ``name`` belongs to ``split``.

    A model is a test model if the hash of its name, as a number in [0, 1), is below ``test_fraction``. So adding or removing
    models does not move others, and a model that is listed in two categories is in the same split in both.
    """
    if split == "all":
        return True
    number = int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "big") / 2**64
    return (number < test_fraction) == (split == "test")


def digest(*parts: object) -> str:
    """Hash the ``repr`` of ``parts`` (numbers, strings, tuples of them) to 16 hexadecimal digits."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return a file's size in bytes and its modification time in nanoseconds; -1 and -1 for a file that does not exist.

    Those of the buffers of a glTF file follow, in which its geometry is.
    """
    return tuple(x for file in (path, *buffer_files(path)) for x in _size_and_time(file))


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # there is no file, or a link leads nowhere
        return -1, -1  # loading it is the error
    return stat.st_size, stat.st_mtime_ns


def check_file(kind: str, path: Path, fix: str) -> None:
    """Check that a file exists.

    Args:
        kind: what the file is.
        path: its path.
        fix: what to do otherwise.

    Raises:
        InputError: it does not, or is a directory.
    """
    if path.is_dir():
        raise InputError(f"{path.absolute()} is a directory; {fix}")
    if not path.is_file():
        raise InputError(f"no such {kind}: {path.absolute()}; {fix}")


def check_split(split: str) -> None:
    """Raise an :class:`InputError` unless ``split`` is train, test or all."""
    check_choice("split", split, get_args(Split))


def check_voxel_size(voxel_size: int, smallest: int = 2) -> None:
    """Raise an :class:`InputError` if a grid is too small for a shape or too large for memory."""
    check_number("voxel_size", voxel_size, at_least=smallest, at_most=MAX_VOXEL_SIZE)
