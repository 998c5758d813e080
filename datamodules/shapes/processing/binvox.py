"""The binvox file format, version 1: a short text header, then run-length encoded occupancy.

A file orders voxels with x slowest, then z, then y fastest. In memory they are ``[z, y, x]``, as everywhere in the project.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from utils.errors import InputError
from utils.files import write_atomically

MAX_DIM = 1024
MAX_LENGTH = 1e6  # of scale and translation; beyond it, voxels are lost to rounding
_HEADER_LIMIT = 2**16  # bytes; real headers take about a hundred, but may have comments
_PADDING = b" \t\r\n\0"  # bytes that may follow the voxels
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Binvox:
    """The content of a binvox file.

    The grid is a cube of edge ``scale`` with its lower corner at ``translate``: the centre of voxel ``[k, j, i]`` is at
    ``translate + scale * ((i, j, k) + 1/2) / D`` in the frame of the voxelized mesh.

    Args:
        voxels: ``(D, D, D)`` bool, ``[z, y, x]``.
        translate: lower corner (x, y, z) of the grid.
        scale: edge length of the grid.
    """

    voxels: Bool[np.ndarray, "D D D"]
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0


def read_binvox(path: str | Path) -> Binvox:
    """Read a binvox file. Comments in the header, and white space or zeros after the voxels, are ignored.

    Raises:
        InputError: the file is missing, is not binvox version 1, is not a cube of at most 1024³, or has fewer or more voxels
            than its header declares.
    """
    path = Path(path)
    try:
        if not path.is_file():  # reading a pipe would block
            raise InputError(f"no such file: {path.absolute()}; check the path")
        with path.open("rb") as file:
            head = file.read(_HEADER_LIMIT)
            dim, translate, scale, start = _parse_header(path, head)
            limit = start + 2 * dim**3 + _HEADER_LIMIT  # at most one pair per voxel, and padding
            content = head + file.read(max(0, limit + 1 - len(head)))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if len(content) > limit:
        raise _corrupt(path, f"data follow after the {dim}³ voxels that its header declares")
    pairs: UInt8[np.ndarray, "N 2"] = np.frombuffer(content, np.uint8, offset=start)[: (len(content) - start) // 2 * 2]
    pairs = pairs.reshape(-1, 2)
    ends = np.cumsum(pairs[:, 1], dtype=np.int64)
    count = int(np.searchsorted(ends, dim**3)) + 1  # of pairs, up to the last voxel
    rest = content[start + 2 * count :]
    if count > len(pairs) and len(content) % 2 != start % 2:
        raise _corrupt(path, "its data end within a (value, count) pair")
    values, counts = pairs[:count, 0], pairs[:count, 1]
    if (values > 1).any():
        raise _corrupt(path, "its data contain values other than 0 and 1")
    total = int(ends[:count][-1]) if len(ends) else 0
    if total != dim**3:  # checked before allocation
        raise _corrupt(path, f"its data contain {total:,} voxels but its header declares {dim}³ = {dim**3:,}")
    if rest.strip(_PADDING):
        raise _corrupt(path, f"data follow after the {dim}³ voxels that its header declares")
    flat = np.repeat(values.astype(bool), counts)
    voxels = flat.reshape(dim, dim, dim).transpose(1, 2, 0)  # [x, z, y] to [z, y, x]
    return Binvox(np.ascontiguousarray(voxels), translate, scale)


def write_binvox(
    path: str | Path,
    voxels: Bool[np.ndarray, "D D D"],
    translate: tuple[float, float, float] = (-0.5, -0.5, -0.5),
    scale: float = 1.0,
) -> None:
    """Write voxels ``[z, y, x]``; see :class:`Binvox` for ``translate`` and ``scale``.

    By default the grid fills the cube [-1/2, 1/2]³, as :class:`renderers.VoxelGrid` and the meshes made from one do.

    Raises:
        ValueError: the voxels are not a cube with edges of 1 to 1024.
    """
    if voxels.ndim != 3 or len(set(voxels.shape)) != 1 or not 1 <= voxels.shape[0] <= MAX_DIM:
        raise ValueError(f"voxels must have shape (D, D, D) with D from 1 to {MAX_DIM}, got {voxels.shape}")
    dim = voxels.shape[0]
    x, y, z = (repr(float(t)) for t in translate)
    header = f"#binvox 1\ndim {dim} {dim} {dim}\ntranslate {x} {y} {z}\nscale {float(scale)!r}\ndata\n"
    flat = voxels.astype(bool).transpose(2, 0, 1).ravel()  # [z, y, x] to [x, z, y]
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    # A count is one byte, so a longer run is split into pieces of at most 255.
    pieces = -(-lengths // 255)
    values = np.repeat(flat[starts], pieces).astype(np.uint8)
    counts = np.full(values.size, 255, np.uint8)
    counts[np.cumsum(pieces) - 1] = lengths - 255 * (pieces - 1)
    content = header.encode() + np.stack([values, counts], 1).tobytes()
    write_atomically(Path(path), lambda file: file.write_bytes(content))


def _parse_header(path: Path, content: bytes) -> tuple[int, tuple[float, float, float], float, int]:
    """Return dim, translate, scale, and the offset of the data."""
    head = content[:_HEADER_LIMIT]
    if not re.match(rb"#binvox 1\s*\n|#binvox 1\s+#", head):
        raise InputError(f"{path} is not a binvox file of version 1; convert the mesh again with binvox")
    end = re.search(rb"\n[ \t]*data[ \t]*(#[^\n]*)?\r?\n", head)
    if end is None:
        raise _corrupt(path, "its header has no line 'data'")
    fields: dict[str, list[str]] = {}
    for line in head[: end.start()].decode("ascii", "replace").splitlines():
        words = line.partition("#")[0].split()  # "#" starts a comment, also in the first line
        if words:
            if words[0] in fields:
                raise _corrupt(path, f"its header repeats {words[0]!r}")
            fields[words[0]] = words[1:]
    dims = fields.get("dim", [])
    if len(dims) != 3 or not all(re.fullmatch(r"\d{1,9}", d, re.ASCII) for d in dims):
        raise _corrupt(path, "its header does not declare three dimensions")
    x, y, z = map(int, dims)
    if not x == y == z:
        raise InputError(f"{path} is a grid of {x} × {y} × {z}, not a cube; run binvox without -bb or -c")
    if not 1 <= x <= MAX_DIM:
        raise InputError(f"{path} declares {x}³ voxels; use a grid of 1 to {MAX_DIM} along an edge (binvox -d)")
    tx, ty, tz = _numbers(path, fields, "translate", 3, ["0", "0", "0"])
    (scale,) = _numbers(path, fields, "scale", 1, ["1"])
    if not 1 / MAX_LENGTH <= scale <= MAX_LENGTH or max(abs(tx), abs(ty), abs(tz)) > MAX_LENGTH:
        raise _corrupt(path, f"its scale {scale:g} or translate {tx:g} {ty:g} {tz:g} is out of range")
    return x, (tx, ty, tz), scale, end.end()


def _numbers(path: Path, fields: dict[str, list[str]], name: str, count: int, default: list[str]) -> tuple[float, ...]:
    words = fields.get(name, default)
    if len(words) != count or not all(re.fullmatch(_NUMBER, word, re.ASCII) for word in words):
        raise _corrupt(path, f"its header's {name!r} is not {count} number{'s' * (count > 1)}")
    numbers = tuple(map(float, words))
    if not np.isfinite(numbers).all():
        raise _corrupt(path, f"its header's {name!r} is not finite")
    return numbers


def _corrupt(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is corrupt: {reason}; download or convert it again")
