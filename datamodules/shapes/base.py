"""What every source of shapes gives: a named voxel grid for an index."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool

from renderers.scenes import VoxelGrid
from utils.errors import InputError

Split = Literal["train", "test", "all"]
SPLITS = ("train", "test", "all")
MAX_VOXEL_SIZE = 512


@dataclass(frozen=True)
class Shape:
    """One shape of a source.

    Args:
        name: unique within its source, and the same on every machine.
        voxels: a batch of one, ``(1, 1, D, D, D)`` float32 of 0 and 1, ``[b, c, z, y, x]``, y up; what has a front faces
            +z, toward the viewer at azimuth 0.
    """

    name: str
    voxels: VoxelGrid


class ShapeSource(ABC):
    """A fixed, indexable collection of shapes.

    A source is cheap to build (a config is checked by building it) and picklable (workers get a copy). Files and folders
    that are not there are an :class:`InputError` at construction.

    Attributes:
        voxel_size: voxels along an edge, D.
    """

    voxel_size: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Shape:
        """The shape at ``0 <= index < len(self)``; a function of the index and the constructor's arguments alone.

        Raises:
            IndexError: an index outside.
            InputError: a file that cannot be used.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """``self[index].name`` without making the shape."""

    @abstractmethod
    def cache_key(self) -> str:
        """Hex digits that change whenever any shape, or their order, may have changed; part of cache keys."""

    def __iter__(self) -> Iterator[Shape]:
        return (self[i] for i in range(len(self)))

    def _check_index(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"shape {index} of {len(self)}")
        return index


def to_voxel_grid(solid: Bool[np.ndarray, "D D D"]) -> VoxelGrid:
    """A boolean grid ``[z, y, x]`` as a batch of one."""
    return VoxelGrid(torch.from_numpy(np.ascontiguousarray(solid).astype(np.float32))[None, None])


def in_split(name: str, split: Split, test_fraction: float) -> bool:
    """Whether the model called ``name`` belongs to ``split``.

    A model is a test model where the hash of its name, taken as a number in [0, 1), is below ``test_fraction``: so adding or
    losing models moves no other, and a model listed in two categories falls on the same side in both.
    """
    if split == "all":
        return True
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    return (number < test_fraction) == (split == "test")


def digest(*parts: object) -> str:
    """16 hex digits of the representation of ``parts`` (numbers, strings, tuples of them)."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def file_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def check_split(split: str) -> None:
    """Raises an :class:`InputError` unless ``split`` is train, test or all."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def check_fraction(test_fraction: float) -> None:
    """Raises an :class:`InputError` unless ``test_fraction`` is a share."""
    if not 0 <= test_fraction <= 1:
        raise InputError(f"test_fraction must lie between 0 and 1, got {test_fraction}")


def check_voxel_size(voxel_size: int, smallest: int = 2) -> None:
    """Raises an :class:`InputError` for a grid too small to hold a shape or too large to hold in memory."""
    if not smallest <= voxel_size <= MAX_VOXEL_SIZE:
        raise InputError(f"voxel_size must lie between {smallest} and {MAX_VOXEL_SIZE}, got {voxel_size}")
