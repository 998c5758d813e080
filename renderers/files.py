"""Where caches live, what they are called, and how a file is written so that it is whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where caches live: the argument, else $UNRENDER_CACHE, else ``~/.cache/unrender``."""
    return Path(cache_dir or os.environ.get("UNRENDER_CACHE") or Path.home() / ".cache" / "unrender").expanduser()


def fingerprint(*parts: object) -> str:
    """A short hash of everything that a cache depends on; parts are compared by ``repr``."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
