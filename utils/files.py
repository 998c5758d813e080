"""Where caches live, what they are called, and how a file is written so that it is whole or not there."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where caches live: the argument, else $UNRENDER_CACHE, else ``~/.cache/unrender``."""
    return Path(cache_dir or os.environ.get("UNRENDER_CACHE") or Path.home() / ".cache" / "unrender").expanduser()


def cache_key(*parts: object) -> str:
    """A short hash of everything that a cache depends on; parts are compared by ``repr``."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there: whole or not at all.

    Raises:
        OSError: naming ``path``, such as for a full disk; what stood there before is as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def save_torch(content: Any, path: Path) -> None:
    """``torch.save``, atomically. By way of memory, because a full disk is no ``OSError`` if torch itself meets it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write_bytes(buffer.getbuffer()) and None)
