"""Encoded images by number, wherever they lie: folders, FFHQ as distributed, ZIP files, LMDB."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.images.decoding import MAX_BYTES, UndecodableError, read_encoded
from datamodules.images.image_set import SUFFIXES
from datamodules.images.lmdb_check import check_lmdb
from renderers import InputError
from utils.files import cache_key

FFHQ_FOLDERS = {"thumbnails128x128": 128, "images1024x1024": 1024}
FFHQ_BLOCK = 1000  # images a sub-folder


class ImageError(InputError):
    """One image that cannot be used, named in one sentence.

    A worker's error reaches the main process as the text of its traceback, of which this keeps the sentence alone.

    Args:
        sentence: what is wrong.
        kind: the same in a few words without the image's name, under which many are counted.
    """

    def __init__(self, sentence: str, kind: str = "damaged, or no PNG or JPEG") -> None:
        super().__init__(sentence.rsplit("ImageError: ", 1)[-1].strip())
        self.kind = kind


class CorruptImageError(ImageError):
    """One image that is not there, no image, or not whole."""


class ImageSource(ABC):
    """Encoded images in an order that is the same in every format. It travels to workers, open files do not.

    Attributes:
        root: what was opened.
        size: (width, height) that every image must have; None for that of the first.
    """

    root: Path
    size: tuple[int, int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call image i."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Image i as it is encoded.

        Raises:
            CorruptImageError: naming it.
        """

    @abstractmethod
    def cache_key(self) -> str:
        """What images these are, as far as a listing tells."""

    def _unreadable(self, index: int, error: Exception) -> CorruptImageError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CorruptImageError(f"{self.root}: {self.name(index)} cannot be read ({reason}); replace or remove it")


class NamedSource(ImageSource):
    """Images that have names of their own."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


class FolderSource(NamedSource):
    """Files below a folder."""

    def __init__(self, root: Path, names: list[str], size: tuple[int, int] | None = None) -> None:
        self.root, self.names, self.size = root, names, size

    def read(self, index: int) -> bytes:
        try:
            return read_encoded(self.root / self.names[index])
        except UndecodableError as error:
            raise CorruptImageError(f"{self.root}: {self.name(index)} {error}; replace or remove it") from error

    def cache_key(self) -> str:
        return cache_key(self.names, [self._stamp(self.root / name) for name in self.names])

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        try:
            stat = path.stat()
        except OSError:  # gone since it was listed: reading it will say so
            return (-1, -1)
        return stat.st_size, stat.st_mtime_ns


class ZipSource(NamedSource):
    """Members of a ZIP file, as the StyleGAN repositories pack them, read without extraction; ``dataset.json`` is
    ignored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[int, zipfile.ZipFile] = {}
        self.names = _images(self._open().namelist())
        if not self.names:
            raise InputError(f"{root} holds no images (png, jpg)")

    def read(self, index: int) -> bytes:
        try:
            with self._open().open(self.names[index]) as member:
                content = member.read(MAX_BYTES + 1)  # whatever size the archive declares
        except Exception as error:  # zipfile and its decompressors raise whatever damage leads them to
            raise self._unreadable(index, error) from error
        if len(content) > MAX_BYTES:
            raise self._unreadable(index, ValueError(f"it unpacks to more than {MAX_BYTES / 2**20:.0f} MiB"))
        return content

    def cache_key(self) -> str:
        return cache_key([(name, self._open().getinfo(name).CRC) for name in self.names])

    def _open(self) -> zipfile.ZipFile:
        process = os.getpid()  # a forked process must not share the place in the file
        if process not in self._files:
            try:
                self._files = {process: zipfile.ZipFile(self.root)}
            except Exception as error:  # a damaged directory of members leads to struct.error and others as well
                raise InputError(f"{self.root} cannot be read as a ZIP file ({error}); download it again") from error
        return self._files[process]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class LmdbSource(ImageSource):
    """An LMDB with keys ``{resolution}-{number:05d}`` and ``length``; needs the package lmdb.

    Args:
        root: its folder, or the file itself.
        image_size: the smallest resolution that is stored and no smaller than this is read.
    """

    def __init__(self, root: Path, image_size: int) -> None:
        self.root = root.resolve()
        check_lmdb(self.root)
        length = bytes(self._get("length") or b"")
        self.count = int(length) if re.fullmatch(rb"[0-9]{1,9}", length) else 0
        if not self.count:
            raise InputError(f"{root} has no key 'length'; it must have keys such as '128-00000' and 'length'")
        sizes = [2**i for i in range(2, 12) if self._get(f"{2**i}-00000") is not None]
        fitting = [size for size in sizes if size >= image_size]
        if not fitting:
            held = ", ".join(map(str, sizes)) or "none that is a power of two"
            raise InputError(f"{root} holds no resolution of at least image_size {image_size} (it holds {held})")
        self.resolution = fitting[0]
        if self._get(self.name(self.count - 1)) is None:
            raise InputError(f"{root} has no key {self.name(self.count - 1)!r}, though its length is {self.count:,}")
        self.size = (self.resolution, self.resolution)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{self.resolution}-{index:05d}"

    def read(self, index: int) -> bytes:
        content = self._get(self.name(index))
        if content is None:
            raise self._unreadable(index, KeyError("no such key"))
        return bytes(content)

    def cache_key(self) -> str:
        stat = (self.root / "data.mdb" if self.root.is_dir() else self.root).stat()
        return cache_key(str(self.root.resolve()), self.resolution, self.count, stat.st_size, stat.st_mtime_ns)

    def _get(self, key: str) -> bytes | None:
        """A key's value; None where there is none.

        Raises:
            InputError: the file has been damaged since it was opened.
        """
        environment = _environment(os.getpid(), self.root)
        try:
            with environment.begin(write=False) as transaction:
                return transaction.get(key.encode())
        except Exception as error:  # lmdb.Error, of a package that is imported where it is needed alone
            raise InputError(f"{self.root}: key {key!r} cannot be read ({error}); download or copy it again") from error


@lru_cache(maxsize=8)
def _environment(process: int, root: Path) -> Any:
    """The open LMDB: one a process, which must open none twice, and not to be used after a fork.

    Raises:
        InputError: no package lmdb, or no LMDB.
    """
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError as error:
        raise InputError(f"{root} is an LMDB, which needs the package lmdb: pip install lmdb") from error
    try:
        return lmdb.open(
            str(root), subdir=root.is_dir(), readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
    except lmdb.Error as error:
        raise InputError(f"{root} cannot be read as an LMDB ({error})") from error


def open_source(root: Path, image_size: int, expected: int) -> ImageSource:
    """Whatever lies there: see :class:`~datamodules.FFHQDataModule`.

    Raises:
        InputError: nothing there, nothing in it, or FFHQ's folders with gaps.
    """
    if root.is_file():
        return LmdbSource(root, image_size) if root.suffix in (".mdb", ".lmdb") else ZipSource(root)
    if not root.is_dir():
        raise InputError(f"there is no folder and no file {root}")
    if (root / "data.mdb").is_file():
        return LmdbSource(root, image_size)
    here = [name for name in FFHQ_FOLDERS if (root / name).is_dir()]
    if here:
        fitting = [name for name in here if FFHQ_FOLDERS[name] >= image_size]  # the smaller first
        if not fitting:
            raise InputError(f"{root} holds {here[0]} alone, which is smaller than image_size {image_size}")
        return _ffhq(root / fitting[0], expected)
    if root.name in FFHQ_FOLDERS:
        return _ffhq(root, expected)
    found = (str(path.relative_to(root).as_posix()) for path in root.rglob("*") if path.is_file())
    names = _images(found)
    if not names:
        raise InputError(f"{root} holds no images (png, jpg), and neither thumbnails128x128 nor images1024x1024")
    return FolderSource(root, names)


def _ffhq(folder: Path, expected: int) -> FolderSource:
    """FFHQ as distributed: ``00000/00000.png`` to ``69000/69999.png``, without gaps."""
    cure = f"complete the download, or set expected (now {expected:,}) if you have the first images alone"
    blocks = [f"{first:05d}" for first in range(0, expected, FFHQ_BLOCK)]
    missing = [block for block in blocks if not (folder / block).is_dir()]
    if missing:
        raise InputError(f"{folder} lacks {_some('sub-folder', missing, len(blocks))}; {cure}")
    present = {f"{block}/{entry.name}" for block in blocks for entry in os.scandir(folder / block)}
    names = [f"{i // FFHQ_BLOCK * FFHQ_BLOCK:05d}/{i:05d}.png" for i in range(expected)]
    absent = [name for name in names if name not in present]
    if absent:
        raise InputError(f"{folder} lacks {_some('image', absent, expected)}; {cure}")
    return FolderSource(folder, names, (FFHQ_FOLDERS[folder.name],) * 2)


def _some(what: str, missing: list[str], of: int) -> str:
    return f"{len(missing):,} of {of:,} {what}s ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})"


def _images(names: Any) -> list[str]:
    """Those that are images by their suffix and not hidden, folder by folder."""
    kept = [
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith((".", "__")) for p in n.split("/"))
    ]
    return sorted(kept, key=lambda name: name.split("/"))
