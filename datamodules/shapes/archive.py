"""Voxel archives: one ``.npz`` file of bit-packed grids, labels and class names."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Bool, Int, UInt8

from datamodules.shapes.base import (
    Shape,
    ShapeSource,
    Split,
    check_file,
    check_split,
    check_voxel_size,
    digest,
    file_stamp,
    to_voxel_grid,
)
from datamodules.shapes.processing.resample import resample
from datamodules.shapes.unusable import warn_first_process
from utils.errors import InputError, check_choice
from utils.files import save_npz

VERSION = 1
ALIASES = {"couch": "sofa", "sofa": "couch", "tub": "bathtub"}
MAX_BYTES = 8 * 2**30  # per decompressed array
MAX_SMALL_BYTES = 2**20  # per array of metadata
MAX_RATIO = 250  # compression above MAX_FREE_BYTES; shapes compress to about a tenth, empty grids to a thousandth
MAX_FREE_BYTES = 2**26
MAX_DIM = 512
# Quarter turns about y, counter-clockwise seen from above, that make ModelNet10's classes face +z after its z-up frame is
# mapped to (x, z, -y). Chairs, beds and toilets already face +z; sofas, desks, monitors and dressers face -x; tables and
# bathtubs have no front and are turned so that their long side is along x.
MODELNET_TURNS = {
    "bathtub": 1,
    "bed": 0,
    "chair": 0,
    "desk": 1,
    "dresser": 1,
    "monitor": 1,
    "night_stand": 1,
    "sofa": 1,
    "table": 1,
    "toilet": 0,
}


class VoxelArchive(ShapeSource):
    """Shapes of one class of a voxel archive such as ModelNet10's.

    For ``split`` in train and test, the file contains ``voxels_<split>``, one ``np.packbits`` row per grid in C order
    ``[x, y, z]``, and ``labels_<split>``. It also contains ``class_names`` and ``shape`` (the three equal sides of a grid).
    Empty grids are skipped, and their number is logged.

    Args:
        path: the ``.npz`` file.
        category: a class name; couch and sofa are synonyms.
        split: train, test, or all for both, train first.
        up: the file's vertical axis.
        voxel_size: voxels per edge, or None for the archive's. Smaller grids are max-pooled.
        turns: quarter turns about the vertical, counter-clockwise seen from above, that make the class face +z; None uses
            ModelNet10's for its class names if ``up`` is z, and 0 otherwise.

    Raises:
        InputError: the file is missing, corrupt or not a voxel archive, or does not have the class.
    """

    def __init__(
        self,
        path: str | Path,
        category: str,
        split: Split = "train",
        up: Literal["y", "z"] = "z",
        voxel_size: int | None = None,
        turns: int | None = None,
    ) -> None:
        check_split(split)
        check_choice("up", up, ("y", "z"))
        self.path = Path(path)
        self.split: Split = split
        self.up = up
        self.size, self.class_names = _read_metadata(self.path)
        self.category = _class_name(self.path, category, self.class_names)
        self.turns = (MODELNET_TURNS.get(self.category, 0) if up == "z" else 0) if turns is None else turns
        if voxel_size is not None:
            check_voxel_size(voxel_size)
        self.voxel_size = voxel_size or self.size

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Shape:
        name, row = self._entries[self._check_index(index)]
        bits = np.unpackbits(row, count=self.size**3)  # without the padding to whole bytes
        grid = bits.reshape(self.size, self.size, self.size).astype(bool)  # file order [x, y, z]
        # z up: our (x, y, z) is the file's (x, z, -y).
        solid = grid.transpose(1, 2, 0)[::-1] if self.up == "z" else grid.transpose(2, 1, 0)
        # Seen from above (x right, z down), a turn maps z to x: axis 0 to axis 2.
        solid = np.rot90(solid, self.turns, axes=(0, 2))
        if self.voxel_size != self.size:
            solid = resample(solid, self.voxel_size)
        return Shape(name, to_voxel_grid(solid))

    def name(self, index: int) -> str:
        return self._entries[self._check_index(index)][0]

    def cache_key(self) -> str:
        stamp = file_stamp(self.path)
        return digest("archive", VERSION, stamp, self.category, self.split, self.up, self.voxel_size, self.turns)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_entries"}

    @cached_property
    def _entries(self) -> list[tuple[str, UInt8[np.ndarray, " N"]]]:
        """Name and packed bits of each non-empty grid of the class."""
        label = self.class_names.index(self.category)
        entries, empty = [], 0
        for split in ("train", "test") if self.split == "all" else (self.split,):
            labels, voxels = (_read(self.path, f"{key}_{split}") for key in ("labels", "voxels"))
            for number in np.flatnonzero(labels == label):
                if voxels[number].any():
                    entries.append((f"{self.category}-{split}-{number:05d}", voxels[number].copy()))
                else:
                    empty += 1
        if empty:
            total = len(entries) + empty
            warn_first_process(f"skipping {empty:,} of {total:,} {self.category} grids in {self.path} that are empty")
        if not entries:
            raise InputError(
                f"{self.path} has no {self.category} in split {self.split!r}; choose another class or split"
            )
        return entries


def archive_classes(path: str | Path) -> list[str]:
    """Return the class names of an archive, in its order.

    Raises:
        InputError: the file is missing, corrupt or not a voxel archive.
    """
    return _read_metadata(Path(path))[1]


def write_archive(
    path: str | Path,
    voxels: dict[str, Bool[np.ndarray, "N D D D"]],
    labels: dict[str, Int[np.ndarray, " N"]],
    class_names: list[str],
) -> None:
    """Write an archive that :class:`VoxelArchive` reads.

    Args:
        path: the ``.npz`` file.
        voxels: for ``train`` and ``test``, grids ``[n, x, y, z]``.
        labels: for ``train`` and ``test``, indices into ``class_names``.
        class_names: names of the classes.

    Raises:
        ValueError: the grids are not cubes of one size, or the labels do not match them.
    """
    sizes = {side for grids in voxels.values() for side in grids.shape[1:]}
    if set(voxels) != {"train", "test"} or set(labels) != set(voxels) or len(sizes) != 1:
        raise ValueError("voxels and labels must have keys train and test, and shapes (N, D, D, D) and (N,) with one D")
    (size,) = sizes
    arrays: dict[str, Any] = {"class_names": np.array(class_names), "shape": np.full(3, size)}
    for split, grids in voxels.items():
        if len(grids) != len(labels[split]) or not all(0 <= label < len(class_names) for label in labels[split]):
            raise ValueError(f"labels of {split} must be {len(grids)} indices below {len(class_names)}")
        arrays[f"voxels_{split}"] = np.packbits(grids.reshape(len(grids), size**3).astype(bool), axis=1)
        arrays[f"labels_{split}"] = np.asarray(labels[split], np.uint8 if len(class_names) <= 256 else np.int64)
    save_npz(arrays, Path(path))


def _class_name(path: Path, category: str, names: list[str]) -> str:
    for name in (category, category.lower(), ALIASES.get(category.lower(), "")):
        if name in names:
            return name
    matches = difflib.get_close_matches(category.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(matches)}?" if matches else f"it has {', '.join(names)}"
    raise InputError(f"{path} has no class {category!r}; {hint}")


def _read_metadata(path: Path) -> tuple[int, list[str]]:
    """Return grid size and class names; check the other arrays by their declared shapes, without decompressing them."""
    keys = [f"{key}_{split}" for split in ("train", "test") for key in ("voxels", "labels")] + ["class_names", "shape"]
    declared = {key: _declared(path, key) for key in keys}
    if declared["shape"][0] != (3,) or declared["shape"][1].kind not in "iu":
        raise _not_an_archive(path, "'shape' is not three integers")
    if len(declared["class_names"][0]) != 1 or declared["class_names"][1].kind != "U":
        raise _not_an_archive(path, "'class_names' is not a list of text")
    sides = {int(side) for side in _read(path, "shape")}
    if len(sides) != 1 or not 1 <= min(sides) <= MAX_DIM:
        raise _not_an_archive(
            path, f"its grids must be cubes with edges of 1 to {MAX_DIM}, but 'shape' has {sorted(sides)}"
        )
    (size,) = sides
    for split in ("train", "test"):
        rows, kind = declared[f"voxels_{split}"]
        labels, label_kind = declared[f"labels_{split}"]
        if len(rows) != 2 or rows[1] != -(-(size**3) // 8) or kind != np.uint8:
            raise _not_an_archive(path, f"'voxels_{split}' has dtype {kind} and shape {rows}, not rows of {size}³ bits")
        if labels != rows[:1] or label_kind.kind not in "iu":
            raise _not_an_archive(path, f"'labels_{split}' does not have one integer for each of {rows[0]} grids")
    names = [str(name) for name in _read(path, "class_names")]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise _not_an_archive(path, f"'class_names' repeats {', '.join(repeated)}")
    for split in ("train", "test"):
        numbers = _read(path, f"labels_{split}")
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(names)):
            raise _not_an_archive(
                path,
                f"'labels_{split}' has values from {numbers.min()} to {numbers.max()}, but they are indices into the "
                f"{len(names)} 'class_names', from 0 to {len(names) - 1}",
            )
    return size, names


def _declared(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return an array's shape and dtype from its header, checked against the sizes in the ZIP directory."""
    with _open_array(path, key) as (stream, info):
        shape, _, dtype = _read_header(path, key, stream)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        limit = MAX_BYTES if key.startswith("voxels_") else MAX_SMALL_BYTES * (64 if key.startswith("labels_") else 1)
        if dtype.hasobject or min(shape, default=0) < 0 or size != info.file_size - stream.tell():
            raise _not_an_archive(
                path, f"'{key}' declares dtype {dtype} and shape {shape}, which do not match its size"
            )
        if size > limit or size > max(MAX_FREE_BYTES, MAX_RATIO * info.compress_size):
            raise _not_an_archive(
                path, f"'{key}' decompresses from {info.compress_size:,} to {size:,} bytes, which is not plausible"
            )
        return shape, dtype


def _read(path: Path, key: str) -> np.ndarray:
    """Read one array; no more is decompressed than its header declares."""
    with _open_array(path, key) as (stream, _):
        shape, fortran, dtype = _read_header(path, key, stream)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        content = stream.read(min(size, MAX_BYTES))
        if dtype.hasobject or len(content) != size:
            raise _not_an_archive(path, f"'{key}' is truncated")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _read_header(path: Path, key: str, stream: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise _not_an_archive(path, f"'{key}' has an unknown array format")
    return readers[version](stream)


@contextmanager
def _open_array(path: Path, key: str) -> Iterator[tuple[zipfile.ZipExtFile, zipfile.ZipInfo]]:
    """Open an array's file within the archive. Errors from reading a corrupt file become an :class:`InputError`."""
    check_file("voxel archive", path, "set path to an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                raise _not_an_archive(path, f"it has no array '{key}'")
            info = archive.getinfo(f"{key}.npy")
            with cast(zipfile.ZipExtFile, archive.open(info)) as stream:  # declared as IO[bytes]
                yield stream, info
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy may raise anything on a corrupt file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]  # zipfile quotes file contents
        raise InputError(f"{path} is corrupt ({reason}); copy or download it again") from error


def _not_an_archive(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not a voxel archive: {reason}; see VoxelArchive for the format")
