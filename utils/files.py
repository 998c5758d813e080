"""Cache location, cache keys, and atomic file writes."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import InputError

TEMPORARY = ".unrender-tmp"  # suffix of files that are being written; a killed process leaves them


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Return the cache directory: the argument, else ``$UNRENDER_CACHE``, else ``~/.cache/unrender``.

    Raises:
        InputError: the user has no home directory.
    """
    try:
        if chosen := cache_dir or os.environ.get("UNRENDER_CACHE"):
            return Path(chosen).expanduser()
        return Path.home() / ".cache" / "unrender"
    except RuntimeError as error:  # a user without an entry in passwd
        raise InputError("there is no home directory for caches; set HOME or UNRENDER_CACHE") from error


def cache_key(*parts: object) -> str:
    """Hash everything that a cache depends on to 16 hexadecimal digits. Parts are compared by ``repr``."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def create_directory(folder: Path) -> None:
    """Create a directory and those above it.

    Raises:
        InputError: the file system cannot hold it, as below ``/proc``.
        OSError: for example if the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(f"the directory {folder} cannot be created: {error.strerror}; pass another path") from error


def check_replaceable(path: Path, is_output: Callable[[Path], bool], kind: str, option: str) -> None:
    """Check that an output does not replace a file of another kind.

    Args:
        path: where to write.
        is_output: whether a file is an earlier output.
        kind: the kind of the output, in words.
        option: the option that names the path.

    Raises:
        InputError: there is such a file.
    """
    if path.is_file() and not is_output(path):
        raise InputError(f"{path} exists and is not {kind}; pass another {option}")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary file next to ``path``, then move it to ``path``.

    Raises:
        InputError: the directory cannot be created.
        OSError: for example if the disk is full. It names ``path``; an existing file there is unchanged.
    """
    temporary = path.parent / f".{path.name}{uuid.uuid4().hex[:8]}{TEMPORARY}"
    try:
        create_directory(path.parent)
        temporary.touch(exist_ok=False)  # unlike tempfile's, with the permissions that the umask leaves
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def save_torch(content: Any, path: Path) -> None:
    """Call ``torch.save`` atomically.

    The content is serialized in memory first, because ``torch.save`` does not raise ``OSError`` on a full disk.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write_bytes(buffer.getbuffer()))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def save_npy(array: np.ndarray, path: Path) -> None:
    """Call ``numpy.save`` atomically, in memory first, because numpy does not report a full disk as such."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, lambda file: file.write_bytes(buffer.getbuffer()))


def save_npz(arrays: Mapping[str, Any], path: Path) -> None:
    """Call ``numpy.savez_compressed`` atomically."""

    def save(file: Path) -> None:
        with file.open("wb") as stream:  # numpy would append a suffix to a path
            np.savez_compressed(stream, **arrays)

    write_atomically(path, save)
