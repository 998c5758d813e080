"""Renders of shapes, drawn once and kept on disk."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from renderers import InputError
from utils.files import write_atomically
from utils.progress import Progress

log = logging.getLogger(__name__)
SHARD = 256  # images a file: what an interruption can cost


class RenderCache:
    """``count`` images in shards of 256, each with its checksum; whatever is missing or damaged is drawn anew.

    A shard is written whole or not at all and does not depend on the others, so an interrupted rendering goes on where
    it was, and several machines may fill one folder. Once all are there, ``manifest.json`` names them with their checksums.

    Args:
        folder: of this one set of images; its name should hold the cache_key of all that they depend on.
        count: number of images.
        shape: (C, H, W) of one.
        render: indices to images ``(n, C, H, W)`` uint8; a function of the index alone. None: the
            cache is there to be read.
        description: what the progress bar says.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        shape: tuple[int, int, int],
        render: Callable[[list[int]], UInt8[np.ndarray, "n C H W"]] | None,
        description: str,
    ) -> None:
        self.folder, self.count, self.shape, self.render, self.description = folder, count, shape, render, description

    def prepare(self, part: tuple[int, int] = (1, 1)) -> int:
        """Draw what is missing, and write the manifest if nothing is missing then; returns how many images it drew.

        Args:
            part: (i, n) leaves all but every n-th file, from the i-th on, to others.

        Raises:
            InputError: if the disk cannot hold the images or the folder cannot be written; images that are missing from
                a cache that is only read.
        """
        mine = range(part[0] - 1, self._shards(), part[1])
        missing = [i for i in mine if not self._intact(i)]
        drawn = sum(len(self._indices(i)) for i in missing)
        if missing:
            if self.render is None:
                raise InputError(f"{self.folder} lacks {drawn} images; run the command again that draws them")
            self._check_disk(drawn)
            done = sum(len(self._indices(i)) for i in mine) - drawn
            with Progress(done + drawn, self.description, "image", initial=done) as bar:
                for shard in missing:
                    images = []
                    indices = self._indices(shard)
                    for start in range(0, len(indices), 64):
                        images.append(self.render(list(indices[start : start + 64])))
                        bar.update(len(images[-1]))
                    self._write(shard, np.concatenate(images))
            log.info("%s: %d images in %s", self.description, drawn, self.folder)
        self._write_manifest()
        return drawn

    @property
    def files(self) -> int:
        """How many files it is kept in."""
        return self._shards()

    def missing(self) -> int:
        """How many images are not there yet, by the files' names; contents are not read."""
        return sum(len(self._indices(i)) for i in range(self._shards()) if not self._there(i))

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def _write_manifest(self) -> None:
        """Where every file has its checksum. Whoever completes the cache writes it; two that do so write the same."""
        if not all(self._there(i) for i in range(self._shards())):
            return
        try:
            files = {
                self._path(i).name: json.loads(self._checksum_file(i).read_text())["sha256"]
                for i in range(self._shards())
            }
        except (OSError, ValueError, KeyError, TypeError):
            return
        text = json.dumps({"pictures": self.count, "shape": self.shape, "sha256": files}, indent=1) + "\n"
        if not self._manifest.is_file() or self._manifest.read_text() != text:
            write_atomically(self._manifest, lambda path: path.write_text(text) and None)

    def _check_disk(self, images: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            need, free = images * int(np.prod(self.shape)), shutil.disk_usage(self.folder).free
        except OSError as error:
            raise InputError(
                f"the image cache {self.folder} cannot be written ({error.strerror}); set cache_dir"
            ) from error
        if need > free:
            raise InputError(
                f"{images} images need {need / 2**30:.1f} GiB and {self.folder} has {free / 2**30:.1f} GiB left; "
                "set cache_dir or ask for fewer images"
            )

    def load(self) -> UInt8[np.ndarray, "N C H W"]:
        """All images, read into memory and checked.

        Raises:
            InputError: a shard that is missing or damaged, which :meth:`prepare` would have drawn.
        """
        missing = (self._path(shard) for shard in range(self._shards()) if not self._path(shard).is_file())
        if (path := next(missing, None)) is not None:  # before memory is taken for what a file's name promises
            raise InputError(f"{path} is missing or damaged; run the command again to draw it anew")
        images = np.empty((self.count, *self.shape), np.uint8)
        for shard in range(self._shards()):
            indices = self._indices(shard)
            data = self._read(shard)
            if data is None:
                raise InputError(f"{self._path(shard)} is missing or damaged; run the command again to draw it anew")
            images[indices.start : indices.stop] = data
        return images

    def _shards(self) -> int:
        return -(-self.count // SHARD)

    def _indices(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, self.count))

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}-of-{self.count}.npy"

    def _there(self, shard: int) -> bool:
        return self._path(shard).is_file() and self._checksum_file(shard).is_file()

    def _checksum_file(self, shard: int) -> Path:
        return self._path(shard).with_suffix(".json")

    def _write(self, shard: int, images: np.ndarray) -> None:
        content = io.BytesIO()  # by way of memory: of a full disk numpy's own writing does not say what it is
        np.save(content, images)
        write_atomically(self._path(shard), lambda path: path.write_bytes(content.getbuffer()) and None)
        checksum = json.dumps({"sha256": hashlib.sha256(images.tobytes()).hexdigest()})
        write_atomically(self._checksum_file(shard), lambda path: path.write_text(checksum) and None)

    def _read(self, shard: int) -> np.ndarray | None:
        path = self._path(shard)
        try:
            expected = json.loads(self._checksum_file(shard).read_text())["sha256"]
            data = np.load(path, mmap_mode="r", allow_pickle=False)  # a header that claims too much maps nothing
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, SyntaxError, OverflowError):
            return None
        if data.dtype != np.uint8 or data.shape != (len(self._indices(shard)), *self.shape):
            return None
        data = np.array(data)  # in memory: the file may go
        return data if hashlib.sha256(data).hexdigest() == expected else None

    def _intact(self, shard: int) -> bool:
        return self._read(shard) is not None


def find_cache(folder: Path) -> RenderCache | None:
    """The renders that lie in a folder, to be read and not to be drawn; None where there are none.

    Raises:
        InputError: files of several caches in one folder, or no first shard to tell the images' size by.
    """
    shards = [match for path in folder.glob("*.npy") if (match := re.fullmatch(r"\d{5,}-of-(\d+)", path.stem))]
    if not shards:
        return None
    counts = {int(match[1]) for match in shards}
    try:
        (count,) = counts
        images = np.load(folder / f"{0:05d}-of-{count}.npy", mmap_mode="r", allow_pickle=False)
        _, channels, height, width = images.shape
        if images.dtype != np.uint8 or channels not in (1, 3):
            raise ValueError("no images")
    except Exception as error:  # numpy raises whatever a damaged header leads it to
        raise InputError(f"{folder} is no whole cache of renders; run the command that draws them again") from error

    return RenderCache(folder, count, (channels, height, width), None, "")
