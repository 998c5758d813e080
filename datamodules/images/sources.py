"""Sources of encoded images: folders, FFHQ as distributed, ZIP files, LMDBs."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datamodules.images.decoding import MAX_BYTES, SUFFIXES, UndecodableError, abbreviate, read_encoded
from datamodules.images.listing import Listing, describe_left_out, has_suffix, list_folder, list_members
from datamodules.images.lmdb_check import check_lmdb
from utils.errors import InputError
from utils.files import cache_key

FFHQ_FOLDERS = {"thumbnails128x128": 128, "images1024x1024": 1024}
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
FFHQ_BLOCK = 1000  # images per subfolder


class ImageError(InputError):
    """One image that cannot be used.

    A data loader re-raises a worker's error with the text of its traceback, of which only the message is kept here.

    Args:
        message: one sentence that names the image.
        kind: a short description without the image's name, by which errors are grouped.
    """

    def __init__(self, message: str, kind: str = "corrupt or not of a supported image format") -> None:
        super().__init__(message.rsplit("ImageError: ", 1)[-1].strip())
        self.kind = kind


class CorruptImageError(ImageError):
    """One image that is missing, corrupt or not an image."""


class ImageSource(ABC):
    """Encoded images in an order that does not depend on the format. Sources can be pickled; open files are not included.

    Attributes:
        root: the folder or file that was opened.
        size: required (width, height) of every image; None for the size of the first.
        left_out: names of the files that are no images of the source, by reason.
    """

    root: Path
    size: tuple[int, int] | None = None
    left_out: Mapping[str, list[str]] = MappingProxyType({})

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of image i in messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Read image i without decoding it.

        Raises:
            CorruptImageError: the image cannot be read.
        """

    def header(self, index: int) -> bytes | Path:
        """Return image i or its path, for a reader of headers only.

        Raises:
            CorruptImageError: the image cannot be read.
        """
        return self.read(index)

    @abstractmethod
    def cache_key(self) -> str:
        """Hash the names and the sizes, times or checksums of the images. Their contents are not read."""

    def _unreadable(self, index: int, error: Exception) -> CorruptImageError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return CorruptImageError(f"{self.root}: {self.name(index)} cannot be read ({reason}); replace or remove it")


class NamedSource(ImageSource):
    """Images identified by file names."""

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


class FolderSource(NamedSource):
    """Files below a folder."""

    def __init__(self, root: Path, listing: Listing, size: tuple[int, int] | None = None) -> None:
        self.root, self.size = root, size
        self.names, self.left_out = listing.names, listing.left_out

    def read(self, index: int) -> bytes:
        try:
            return read_encoded(self.root / self.names[index])
        except UndecodableError as error:
            raise CorruptImageError(f"{self.root}: {self.name(index)} {error}; replace or remove it") from error

    def header(self, index: int) -> Path:
        return self.root / self.names[index]

    def cache_key(self) -> str:
        return cache_key(self.names, [self._stamp(self.root / name) for name in self.names])

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        try:
            stat = path.stat()
        except OSError:  # deleted since it was listed; reading it will raise an error
            return (-1, -1)
        return stat.st_size, stat.st_mtime_ns


class ZipSource(NamedSource):
    """Members of a ZIP file, as written by the StyleGAN repositories, read without extraction."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[int, zipfile.ZipFile] = {}
        listing = list_members(self._open().namelist())
        self.names, self.left_out = listing.names, listing.left_out
        if not self.names:
            raise _no_images(root, listing, "")
        if not any(map(_is_readable, map(self._open().getinfo, self.names))):
            raise InputError(
                f"{root} is encrypted, or uses a compression that is not supported; extract it, and pass the folder"
            )

    def read(self, index: int) -> bytes:
        try:
            with self._open().open(self.names[index]) as member:
                content = member.read(MAX_BYTES + 1)  # regardless of the size that the archive declares
        except Exception as error:  # zipfile and its decompressors may raise anything on a corrupt file
            raise self._unreadable(index, error) from error
        if len(content) > MAX_BYTES:
            raise self._unreadable(index, ValueError(f"it decompresses to more than {MAX_BYTES / 2**20:.0f} MiB"))
        return content

    def cache_key(self) -> str:
        return cache_key([(name, self._open().getinfo(name).CRC) for name in self.names])

    def _open(self) -> zipfile.ZipFile:
        process = os.getpid()  # a forked process must not share the file position
        if process not in self._files:
            try:
                self._files = {process: zipfile.ZipFile(self.root)}
            except Exception as error:  # a corrupt directory raises struct.error and others
                raise _not_zip(self.root, error) from error
        return self._files[process]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


class LmdbSource(ImageSource):
    """An LMDB with keys ``{resolution}-{number:05d}`` and ``length``; requires the package lmdb.

    Args:
        root: its folder, or the file itself.
        image_size: the smallest stored resolution of at least this size is read.

    Raises:
        InputError: the LMDB is corrupt, or lacks these keys or a sufficient resolution.
    """

    def __init__(self, root: Path, image_size: int) -> None:
        self.root = root.resolve()
        check_lmdb(self.root)
        length = bytes(self._get("length") or b"")
        self.count = int(length) if re.fullmatch(rb"[0-9]{1,9}", length) else 0
        if not self.count:
            raise InputError(f"{root} has no valid key 'length'; it must have 'length' and keys such as '128-00000'")
        sizes = [2**i for i in range(2, 12) if self._get(f"{2**i}-00000") is not None]
        fitting = [size for size in sizes if size >= image_size]
        if not fitting:
            stored = ", ".join(map(str, sizes)) or "no powers of two"
            raise InputError(f"{root} has no resolution of at least image_size {image_size} (it has {stored})")
        self.resolution = fitting[0]
        if self._get(self.name(self.count - 1)) is None:
            raise InputError(f"{root} has no key {self.name(self.count - 1)!r} although its length is {self.count:,}")
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
        return cache_key(str(self.root), self.resolution, self.count, stat.st_size, stat.st_mtime_ns)

    def _get(self, key: str) -> bytes | None:
        """Return a key's value, or None if there is none.

        Raises:
            InputError: the file was corrupted after it was opened.
        """
        environment = _environment(os.getpid(), self.root)
        try:
            with environment.begin(write=False) as transaction:
                return transaction.get(key.encode())
        except Exception as error:  # lmdb.Error; lmdb is an optional package
            raise InputError(f"{self.root}: key {key!r} cannot be read ({error}); download or copy it again") from error


@lru_cache(maxsize=8)
def _environment(process: int, root: Path) -> Any:
    """Open an LMDB, once per process: a process must not open it twice, nor use it after a fork.

    Raises:
        InputError: the package lmdb is missing, or the file is not an LMDB.
    """
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError as error:
        raise InputError(f"{root} is an LMDB, which requires the package lmdb: pip install lmdb") from error
    try:
        return lmdb.open(
            str(root), subdir=root.is_dir(), readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
    except lmdb.Error as error:
        raise InputError(f"{root} cannot be read as an LMDB ({error})") from error


def open_source(root: Path, image_size: int, expected: int) -> ImageSource:
    """Open a folder, ZIP file or LMDB; see :class:`~datamodules.FFHQDataModule` for the formats.

    Raises:
        InputError: ``root`` does not exist or has no images, or FFHQ's folders are incomplete.
    """
    if (root.suffix in (".mdb", ".lmdb") and root.is_file()) or (root / "data.mdb").is_file():
        return LmdbSource(root, image_size)
    present = [name for name in FFHQ_FOLDERS if (root / name).is_dir()]
    if present:
        fitting = [name for name in present if FFHQ_FOLDERS[name] >= image_size]  # the smaller first
        if not fitting:
            raise InputError(
                f"{root} has only {present[0]}, which is smaller than image_size {image_size}; download images1024x1024"
            )
        return _ffhq(root / fitting[0], expected)
    if root.name in FFHQ_FOLDERS and root.is_dir():
        return _ffhq(root, expected)
    return open_files(root, ", and neither thumbnails128x128 nor images1024x1024", fix="set root to")


def open_files(root: Path, missing: str = "", fix: str = "pass") -> NamedSource:
    """Open all images below a folder or in a ZIP file; see :mod:`datamodules.images.listing` for which are read.

    Args:
        root: the folder or file.
        missing: what else is missing if there are no images, for the message.
        fix: how to choose another folder or file: the start of an advice that ends with "a folder of images".

    Raises:
        InputError: ``root`` does not exist or has no images.
    """
    if root.is_file():
        return ZipSource(root)
    if not root.is_dir():
        raise InputError(f"no such file or folder: {root.absolute()}; {fix} a folder of images or a ZIP file")
    listing = list_folder(root)
    if not listing.names:
        raise _no_images(root, listing, missing)
    return FolderSource(root, listing)


def _no_images(root: Path, listing: Listing, missing: str) -> InputError:
    left_out = f" ({describe_left_out(listing.left_out)})" if listing.left_out else ""
    fix = "convert files of other types, or choose another folder or file"
    return InputError(f"{root} has no images, such as png, jpg or webp{missing}{left_out}; {fix}")


def _not_zip(root: Path, error: Exception) -> InputError:
    if has_suffix(root.name, SUFFIXES):
        return InputError(f"{root} is a single image; pass the folder that contains it")
    fix = "download it again, or extract it if it is another archive, and pass the folder"
    return InputError(f"{root} cannot be read as a ZIP file ({error}); {fix}")


def _is_readable(member: zipfile.ZipInfo) -> bool:
    encrypted = member.flag_bits & 1
    return not encrypted and member.compress_type in COMPRESSIONS


def _ffhq(folder: Path, expected: int) -> FolderSource:
    """Open FFHQ as distributed, ``00000/00000.png`` to ``69000/69999.png``, or without subfolders; there must be no gaps."""
    blocks = [f"{first:05d}/" for first in range(0, expected, FFHQ_BLOCK)]
    if (folder / "00000.png").is_file() and not (folder / blocks[0]).is_dir():
        blocks = [""]
    missing = [block.rstrip("/") for block in blocks if not (folder / block).is_dir()]
    if missing:
        raise _incomplete(folder, "subfolders", missing, len(blocks), expected)
    present = {f"{block}{entry.name}" for block in blocks for entry in os.scandir(folder / block)}
    prefixes = (f"{i // FFHQ_BLOCK * FFHQ_BLOCK:05d}/" for i in range(expected))
    names = [f"{prefix if blocks[0] else ''}{i:05d}.png" for i, prefix in enumerate(prefixes)]
    missing = [name for name in names if name not in present]
    if missing:
        raise _incomplete(folder, "images", missing, expected, expected)
    size = FFHQ_FOLDERS[folder.name]
    others = sorted(name for name in present.difference(names) if has_suffix(name, SUFFIXES))
    left_out = {f"not among the first {expected:,} of FFHQ": others} if others else {}
    return FolderSource(folder, Listing(names, left_out), (size, size))


def _incomplete(folder: Path, items: str, missing: list[str], total: int, expected: int) -> InputError:
    return InputError(
        f"{folder} lacks {len(missing):,} of {total:,} {items} ({abbreviate(missing, 3)}); complete the download, "
        f"or decrease expected (now {expected:,}) if you have only the first images"
    )
