"""Encoded pictures by number, wherever they lie: folders, FFHQ as distributed, ZIP files, LMDB."""

from __future__ import annotations

import importlib
import os
import re
import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.decoding import MAX_BYTES, OnCorrupt, UndecodableError, decoding, open_picture, read_encoded
from datamodules.lmdb_check import check_lmdb
from datamodules.masked_pictures import area_weights
from datamodules.picture_sets import SUFFIXES
from renderers import InputError
from renderers.files import fingerprint

FFHQ_FOLDERS = {"thumbnails128x128": 128, "images1024x1024": 1024}
FFHQ_BLOCK = 1000  # pictures a sub-folder
ORIENTATION = 0x0112  # EXIF's key
UPRIGHT = {  # EXIF's values
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [UPRIGHT[value] for value in (5, 6, 7, 8)]  # width and height change places


class PictureError(InputError):
    """One picture that cannot be used, named in one sentence.

    A worker's error reaches the main process as the text of its traceback, of which this keeps the sentence alone.

    Args:
        sentence: what is wrong.
        kind: the same in a few words without the picture's name, under which many are counted.
    """

    def __init__(self, sentence: str, kind: str = "damaged, or no PNG or JPEG") -> None:
        super().__init__(sentence.rsplit("PictureError: ", 1)[-1].strip())
        self.kind = kind


class DamagedPictureError(PictureError):
    """One picture that is not there, no picture, or not whole."""


class PictureSource(ABC):
    """Encoded pictures in an order that is the same in every format. It travels to workers, open files do not.

    Attributes:
        root: what was opened.
        size: (width, height) that every picture must have; None for that of the first.
    """

    root: Path
    size: tuple[int, int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call picture i."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Picture i as it is encoded.

        Raises:
            DamagedPictureError: naming it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """What pictures these are, as far as a listing tells."""

    def _unreadable(self, index: int, error: Exception) -> DamagedPictureError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return DamagedPictureError(f"{self.root}: {self.name(index)} cannot be read ({reason}); replace or remove it")


class NamedSource(PictureSource):
    """Pictures that have names of their own."""

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
            raise DamagedPictureError(f"{self.root}: {self.name(index)} {error}; replace or remove it") from error

    def fingerprint(self) -> str:
        return fingerprint(self.names, [self._stamp(self.root / name) for name in self.names])

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
        self.names = _pictures(self._open().namelist())
        if not self.names:
            raise InputError(f"{root} holds no pictures (png, jpg)")

    def read(self, index: int) -> bytes:
        try:
            with self._open().open(self.names[index]) as member:
                content = member.read(MAX_BYTES + 1)  # whatever size the archive declares
        except Exception as error:  # zipfile and its decompressors raise whatever damage leads them to
            raise self._unreadable(index, error) from error
        if len(content) > MAX_BYTES:
            raise self._unreadable(index, ValueError(f"it unpacks to more than {MAX_BYTES / 2**20:.0f} MiB"))
        return content

    def fingerprint(self) -> str:
        return fingerprint([(name, self._open().getinfo(name).CRC) for name in self.names])

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


class LmdbSource(PictureSource):
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

    def fingerprint(self) -> str:
        stat = (self.root / "data.mdb" if self.root.is_dir() else self.root).stat()
        return fingerprint(str(self.root.resolve()), self.resolution, self.count, stat.st_size, stat.st_mtime_ns)

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


def open_source(root: Path, image_size: int, expected: int) -> PictureSource:
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
    names = _pictures(found)
    if not names:
        raise InputError(f"{root} holds no pictures (png, jpg), and neither thumbnails128x128 nor images1024x1024")
    return FolderSource(root, names)


def _ffhq(folder: Path, expected: int) -> FolderSource:
    """FFHQ as distributed: ``00000/00000.png`` to ``69000/69999.png``, without gaps."""
    cure = f"complete the download, or set expected (now {expected:,}) if you have the first pictures alone"
    blocks = [f"{first:05d}" for first in range(0, expected, FFHQ_BLOCK)]
    missing = [block for block in blocks if not (folder / block).is_dir()]
    if missing:
        raise InputError(f"{folder} lacks {_some('sub-folder', missing, len(blocks))}; {cure}")
    present = {f"{block}/{entry.name}" for block in blocks for entry in os.scandir(folder / block)}
    names = [f"{i // FFHQ_BLOCK * FFHQ_BLOCK:05d}/{i:05d}.png" for i in range(expected)]
    absent = [name for name in names if name not in present]
    if absent:
        raise InputError(f"{folder} lacks {_some('picture', absent, expected)}; {cure}")
    return FolderSource(folder, names, (FFHQ_FOLDERS[folder.name],) * 2)


def _some(what: str, missing: list[str], of: int) -> str:
    return f"{len(missing):,} of {of:,} {what}s ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''})"


def _pictures(names: Any) -> list[str]:
    """Those that are pictures by their suffix and not hidden, folder by folder."""
    kept = [
        n for n in names if n.lower().endswith(SUFFIXES) and not any(p.startswith((".", "__")) for p in n.split("/"))
    ]
    return sorted(kept, key=lambda name: name.split("/"))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings a picture upright, as the camera noted; None for nothing."""
    if "exif" not in image.info:
        return None
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # a damaged note, of a picture that may be whole
        return None


class PictureReader:
    """Decoded pictures of a source, cropped and averaged to one size.

    Grey pictures become grey RGB; an alpha channel that hides nothing is dropped; a camera's note (EXIF) on how it was
    held is followed.

    Args:
        source: where they come from.
        image_size: S.
        center_crop: cut the middle square out of pictures that are not square; then they may be of several sizes.
        on_corrupt: whether the first picture may be one that cannot be read (skip); the next then tells the size.

    Raises:
        InputError: a first picture that is not square, smaller than S, or that cannot be read.
    """

    def __init__(
        self, source: PictureSource, image_size: int, center_crop: bool = False, on_corrupt: OnCorrupt = "raise"
    ) -> None:
        self.source, self.image_size, self.center_crop = source, image_size, center_crop
        self.size = source.size
        first, self.size = self._first(on_corrupt)
        width, height = self.size
        if width != height and not center_crop:
            raise InputError(f"{source.root} holds pictures of {width}×{height}; set center_crop to use their middle")
        if min(width, height) < image_size:
            raise PictureError(
                f"{source.root} holds pictures of {width}×{height}, smaller than image_size {image_size}, such as "
                f"{source.name(first)}"
            )
        if center_crop:
            self.size = source.size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "3 S S"]:
        """Picture i.

        Raises:
            DamagedPictureError: it cannot be read.
            PictureError: it is of another size than the first, or too small, or has transparent parts.
        """
        image = self._large_enough(index)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if side % self.image_size == 0:
            pixels = np.asarray(image.reduce(side // self.image_size))  # means of blocks
        else:
            weights = area_weights(side, self.image_size, side / self.image_size)
            rows = np.tensordot(weights, np.asarray(image, np.float32), (1, 0))
            pixels = np.tensordot(weights, rows, (1, 1)).swapaxes(0, 1).round().clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def check(self, index: int) -> None:
        """Decode picture i, to find out whether it can be; raises what indexing would."""
        self._large_enough(index)

    def _large_enough(self, index: int) -> Image.Image:
        image = self._decode(index)
        if min(image.size) < self.image_size:
            small = f"smaller than image_size {self.image_size}"
            raise PictureError(f"{self._where(index)} is {image.width}×{image.height}, {small}; remove it", small)
        return image

    def _first(self, on_corrupt: OnCorrupt) -> tuple[int, tuple[int, int]]:
        """The number and the size of the first picture that can be read."""
        for index in range(len(self)):
            try:
                return index, self._decode(index).size
            except DamagedPictureError:
                if on_corrupt == "raise":
                    raise
        raise InputError(f"none of {len(self):,} pictures in {self.source.root} can be read; replace them")

    def _decode(self, index: int) -> Image.Image:
        content = self.source.read(index)
        try:
            with open_picture(content) as image:
                turn = _turn(image)
                self._check_size(index, image.size[::-1] if turn in SIDEWAYS else image.size)  # before it is unpacked
                with decoding():
                    image.load()
                    rgb = self._as_rgb(index, image)
                    return rgb if turn is None else rgb.transpose(turn)
        except UndecodableError as error:
            raise DamagedPictureError(f"{self._where(index)} {error}; replace or remove it") from error

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        width, height = size
        if self.size is not None and size != self.size:
            expected = f"{self.size[0]}×{self.size[1]}"
            raise PictureError(
                f"{self._where(index)} is {width}×{height} where {expected} is expected; "
                "pictures must be of one size, or set center_crop to use the middle of each",
                f"of another size than {expected}",
            )

    def _as_rgb(self, index: int, image: Image.Image) -> Image.Image:
        if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] < 255:
                raise PictureError(
                    f"{self._where(index)} is partly transparent; lay it over a background, "
                    "or use chanterelle.yaml, for photographs with a transparent background",
                    "partly transparent",
                )
        elif image.mode not in ("1", "L", "P", "RGB"):
            deep = f"in mode {image.mode}"
            raise PictureError(
                f"{self._where(index)} is {deep}; make it 8-bit RGB or grey",
                f"{deep} where 8-bit RGB or grey is wanted",
            )
        return image.convert("RGB")

    def _where(self, index: int) -> str:
        return f"{self.source.root}: {self.source.name(index)}"
