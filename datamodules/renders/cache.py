"""An on-disk cache of rendered images."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from utils.errors import InputError
from utils.files import save_npy, write_atomically
from utils.progress import Progress

log = logging.getLogger(__name__)
SHARD = 256  # images per file; an interruption loses at most this many
RENDER_BATCH = 64


class RenderCache:
    """``count`` images in shards of 256 with a checksum each; missing or corrupt shards are rendered again.

    Shards are written atomically and are independent of each other. So an interrupted rendering resumes where it stopped,
    and several machines can fill one folder. When all shards exist, ``manifest.json`` lists them with their checksums.

    Args:
        folder: folder of this set of images; its name should contain the cache key of everything that they depend on.
        count: number of images.
        shape: (C, H, W) of an image.
        render: maps indices to images ``(n, C, H, W)`` uint8; each image is a function of its index alone. None for a cache
            that is only read.
        description: label of the progress bar.
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
        """Render what is missing, then write the manifest if the cache is complete.

        Args:
            part: (i, n) renders only shards i, i + n, i + 2n, … (counted from 1), so that n machines share the work.

        Returns:
            The number of images that were rendered.

        Raises:
            InputError: the disk is too small, the folder cannot be written, or images are missing from a read-only cache.
        """
        shards = range(part[0] - 1, self.files, part[1])
        missing = [i for i in shards if self._read(i) is None]
        rendered = sum(len(self._indices(i)) for i in missing)
        if missing:
            if self.render is None:
                raise InputError(f"{self.folder} lacks {rendered} images; run the command that rendered them again")
            self._check_disk(rendered)
            done = sum(len(self._indices(i)) for i in shards) - rendered
            with Progress(done + rendered, self.description, "image", initial=done) as bar:
                for shard in missing:
                    images = []
                    indices = self._indices(shard)
                    for start in range(0, len(indices), RENDER_BATCH):
                        images.append(self.render(list(indices[start : start + RENDER_BATCH])))
                        bar.update(len(images[-1]))
                    self._write(shard, np.concatenate(images))
            log.info("%s: %d images in %s", self.description, rendered, self.folder)
        self._write_manifest()
        return rendered

    @property
    def files(self) -> int:
        """Number of shards."""
        return -(-self.count // SHARD)

    def missing(self) -> int:
        """Return how many images are missing, judged by file names; contents are not read."""
        return sum(len(self._indices(i)) for i in range(self.files) if not self._exists(i))

    def load(self) -> UInt8[np.ndarray, "N C H W"]:
        """Read all images into memory and verify their checksums.

        Raises:
            InputError: a shard is missing or corrupt; :meth:`prepare` would render it again.
        """

        def unusable(shard: int) -> InputError:
            return InputError(f"{self._path(shard)} is missing or corrupt; run the command again to render it")

        for shard in range(self.files):  # before allocating memory for what a file name promises
            if not self._path(shard).is_file():
                raise unusable(shard)
        images = np.empty((self.count, *self.shape), np.uint8)
        for shard in range(self.files):
            indices = self._indices(shard)
            data = self._read(shard)
            if data is None:
                raise unusable(shard)
            images[indices.start : indices.stop] = data
        return images

    def _write_manifest(self) -> None:
        """Write the manifest if the cache is complete. Machines that finish at the same time write the same content."""
        if not all(self._exists(i) for i in range(self.files)):
            return
        try:
            files = {
                self._path(i).name: json.loads(self._checksum_file(i).read_text(encoding="utf-8"))["sha256"]
                for i in range(self.files)
            }
        except (OSError, ValueError, KeyError, TypeError):
            return
        manifest = self.folder / "manifest.json"
        text = json.dumps({"pictures": self.count, "shape": self.shape, "sha256": files}, indent=1) + "\n"
        if not manifest.is_file() or manifest.read_bytes() != text.encode():
            write_atomically(manifest, lambda path: path.write_text(text, encoding="utf-8"))

    def _check_disk(self, images: int) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            need, free = images * int(np.prod(self.shape)), shutil.disk_usage(self.folder).free
        except OSError as error:
            raise InputError(
                f"the image cache {self.folder} cannot be written ({error.strerror}); set cache_dir to a writable folder"
            ) from error
        if need > free:
            raise InputError(
                f"{images} images need {need / 2**20:,.1f} MiB but {self.folder} has {free / 2**20:,.1f} MiB free; "
                "set cache_dir to a larger disk or use fewer images"
            )

    def _indices(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, self.count))

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}-of-{self.count}.npy"

    def _checksum_file(self, shard: int) -> Path:
        return self._path(shard).with_suffix(".json")

    def _exists(self, shard: int) -> bool:
        return self._path(shard).is_file() and self._checksum_file(shard).is_file()

    def _write(self, shard: int, images: np.ndarray) -> None:
        save_npy(images, self._path(shard))
        checksum = json.dumps({"sha256": hashlib.sha256(images.tobytes()).hexdigest()})
        write_atomically(self._checksum_file(shard), lambda path: path.write_text(checksum, encoding="utf-8"))

    def _read(self, shard: int) -> np.ndarray | None:
        """Return a shard's images, or None if the shard is missing or corrupt."""
        path = self._path(shard)
        try:
            expected = json.loads(self._checksum_file(shard).read_text(encoding="utf-8"))["sha256"]
            # Memory-mapped, so that a header with an excessive shape allocates nothing.
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, SyntaxError, OverflowError):
            return None
        if data.dtype != np.uint8 or data.shape != (len(self._indices(shard)), *self.shape):
            return None
        data = np.array(data)  # copied: the file may be deleted later
        return data if hashlib.sha256(data.data).hexdigest() == expected else None


def find_cache(folder: Path) -> RenderCache | None:
    """Open the render cache in a folder for reading; return None if the folder has none.

    Raises:
        InputError: the folder has the files of several caches, or its first shard is missing or corrupt.
    """
    shards = [match for path in folder.glob("*.npy") if (match := re.fullmatch(r"\d{5,}-of-(\d+)", path.stem))]
    if not shards:
        return None
    counts = {int(match[1]) for match in shards}
    try:
        (count,) = counts
        images = np.load(folder / f"00000-of-{count}.npy", mmap_mode="r", allow_pickle=False)
        _, channels, height, width = images.shape
        if images.dtype != np.uint8 or channels not in (1, 3):
            raise ValueError("not images")
    except Exception as error:  # numpy may raise anything on a corrupt header
        raise InputError(
            f"{folder} is not a complete cache of renders; run the command that rendered it again"
        ) from error

    return RenderCache(folder, count, (channels, height, width), None, "")
