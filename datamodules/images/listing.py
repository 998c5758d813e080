"""Image or mesh files below a folder or in an archive: which files are read, and why others are left out.

One rule for every use. A file is read if it has one of the given suffixes and neither it nor a folder between it and the
root is hidden. Links to files and folders are followed. Each file and folder is read once,
under its own name if it is below the root.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.images.decoding import SUFFIXES, abbreviate
from utils.errors import InputError, printable

log = logging.getLogger(__name__)
HIDDEN = "hidden"
OTHER_TYPE = "of other types"
REPEATED = "read already under another name"
ENCLOSING = "linked to an enclosing folder"
BROKEN = "linked to a missing file or folder"
SPECIAL = "neither file nor folder"
UNREADABLE = "unreadable"
COPIES = "identical to others"
REPLACED = "replaced by a later one of the same name"
# Written beside images by macOS, Synology and Windows. Names that start with a dot are hidden too.
SYSTEM_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")


@dataclass(frozen=True)
class Listing:
    """Files of a folder or an archive.

    Args:
        names: paths relative to the root, separated by slashes, sorted folder by folder.
        left_out: names of the files that are not read, by reason.
    """

    names: list[str]
    left_out: dict[str, list[str]]


def list_folder(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Listing:
    """Find the images, or the files with other suffixes, below a folder. No file is opened.

    A broken link with such a suffix is listed, so that it is an error like any other unreadable file. A link to a folder
    that contains it is not followed.

    Args:
        root: the folder.
        suffixes: suffixes of the files to find, in lower case.

    Raises:
        InputError: a folder cannot be read.
    """
    names: list[str] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    base = os.path.realpath(root)
    files: set[str] = set()  # real paths
    folders: set[str] = set()  # real paths
    hidden: list[tuple[str, str]] = []  # real paths and names
    links: list[tuple[str, str]] = []  # names, and real paths of the folders that contain them

    def walk(folder: str, prefix: str) -> None:
        folders.add(folder)
        pending = [(folder, prefix)]
        while pending:
            path, prefix = pending.pop()
            for entry in _scan(path):
                name, real = prefix + entry.name, f"{path}/{entry.name}"
                if is_hidden(entry.name):
                    hidden.append((real, name))
                elif entry.is_symlink():
                    links.append((name, path))
                elif entry.is_dir(follow_symlinks=False):
                    if real in folders:
                        left_out[REPEATED].append(name)
                    else:
                        folders.add(real)
                        pending.append((real, f"{name}/"))
                elif entry.is_file(follow_symlinks=False):
                    add(real, name)
                else:
                    left_out[SPECIAL].append(name)

    def add(real: str, name: str) -> None:
        if not has_suffix(name, suffixes):
            left_out[OTHER_TYPE].append(name)
        elif real in files:
            left_out[REPEATED].append(name)
        else:
            files.add(real)
            names.append(name)

    def follow(name: str, parent: str) -> None:
        try:
            target = os.path.realpath(f"{base}/{name}", strict=True)
        except OSError:  # no target, or a cycle of links
            (names if has_suffix(name, suffixes) else left_out[BROKEN]).append(name)
            return
        if any(f"{inner}/".startswith(f"{target.rstrip('/')}/") for inner in (base, parent)):
            left_out[ENCLOSING].append(name)
        elif target in folders:
            left_out[REPEATED].append(name)
        elif Path(target).is_dir():
            walk(target, f"{name}/")
        elif Path(target).is_file():
            add(target, name)
        else:
            left_out[SPECIAL].append(name)

    walk(base, "")
    while links:  # after everything that is really below the root
        batch = sorted(links, key=lambda link: _by_folder(link[0]))
        links.clear()
        for name, parent in batch:
            follow(name, parent)
    left_out[HIDDEN] = [name for real, name in hidden for name in _files_below(real, name, folders)]
    return _listing(names, left_out)


def list_members(members: Iterable[str]) -> Listing:
    """Select the images among the names of an archive's members."""
    names: dict[str, None] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for member in members:
        if member.endswith(("/", "\\")):
            continue
        if any(map(is_hidden, re.split(r"[/\\]", member))):  # some programs on Windows write backslashes
            left_out[HIDDEN].append(member)
        elif not has_suffix(member, SUFFIXES):
            left_out[OTHER_TYPE].append(member)
        elif member in names:
            left_out[REPLACED].append(member)
        else:
            names[member] = None
    return _listing(list(names), left_out)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out, with everything in it."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file of this name is read."""
    return name.lower().endswith(suffixes)


def log_images(
    root: Path, total: int, left_out: Mapping[str, list[str]], unreadable: Sequence[str], more: str = ""
) -> None:
    """Log one line on rank 0: how many images are read, and how many files are left out and why.

    It is a warning if anything is left out or ``more`` is to be said.

    Args:
        root: the folder or archive.
        total: number of images that were listed.
        left_out: files that were not listed, and :data:`COPIES`, which were, by reason.
        unreadable: images that were listed but are skipped because they cannot be read.
        more: a further sentence.

    Raises:
        InputError: all images are unreadable.
    """
    if len(unreadable) == total:
        raise InputError(f"none of {total:,} images in {root} can be read: {abbreviate(unreadable)}; replace them")
    reasons = {UNREADABLE: list(unreadable), **left_out}
    copies = len(left_out.get(COPIES, ()))
    read = total - len(unreadable) - copies
    line = f"{root}: {read:,} image{'s' * (read != 1)} read"
    if any(reasons.values()):
        line += f"; {describe_left_out(reasons)}"
    level = logging.WARNING if more or any(reasons.values()) else logging.INFO
    rank_zero_only(log.log)(level, "%s", printable(line + (f"; {more}" if more else "")))


def describe_left_out(left_out: Mapping[str, list[str]]) -> str:
    """Return ``4 files left out: 3 hidden (.a.png, .b.png, .c.png), 1 of other types (.heic)``."""
    parts = []
    for reason, names in left_out.items():
        if names:
            shown = _suffixes(names) if reason == OTHER_TYPE else names
            parts.append(f"{len(names):,} {reason} ({abbreviate(shown, 3)})")
    total = sum(map(len, left_out.values()))
    return f"{total:,} file{'s' * (total != 1)} left out: {', '.join(parts)}"


def _suffixes(names: list[str]) -> list[str]:
    """Return the suffixes of names, the most frequent first."""
    counts = Counter(Path(name).suffix.lower() or "no suffix" for name in names)
    return [suffix for suffix, _ in counts.most_common()]


def _listing(names: list[str], left_out: dict[str, list[str]]) -> Listing:
    return Listing(
        sorted(names, key=_by_folder),
        {reason: sorted(each, key=_by_folder) for reason, each in sorted(left_out.items()) if each},
    )


def _by_folder(name: str) -> list[str]:
    return name.split("/")


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error


def _files_below(path: str, name: str, excluded: set[str]) -> list[str]:
    """Return the names of a hidden file, or of the files in a hidden folder except those that are read by a link."""
    if Path(path).is_symlink() or not Path(path).is_dir():
        return [name]
    found = []
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = [each for each in subfolders if f"{folder}/{each}" not in excluded]
        found += [f"{name}{folder[len(path) :]}/{file}" for file in files]
    return found
