"""One message about all shapes of a set that cannot be read, so that all can be fixed at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import get_worker_info

from datamodules.shapes.base import digest, file_stamp
from utils.errors import InputError, is_temporary, printable
from utils.files import cache_root, write_atomically
from utils.progress import Progress

LISTED = 10
CACHE_VERSION = 2  # files of version 1 may contain temporary failures

log = logging.getLogger(__name__)


def find_unusable(count: int, check: Callable[[int], object]) -> dict[int, str]:
    """Call ``check`` with every index below ``count``; return the messages of the :class:`InputError` by index."""
    return {index: error.message for index, error in _failures(count, check)}


def _failures(count: int, check: Callable[[int], object]) -> Iterator[tuple[int, InputError]]:
    with Progress(count, "checking shapes", "shape") as bar:
        for index in range(count):
            try:
                check(index)
            except InputError as error:
                yield index, error
            bar.update()


def find_unusable_cached(key: str, count: int, check: Callable[[int], object]) -> dict[int, str]:
    """Like :func:`find_unusable`, with the result cached on disk under ``key``.

    It is not cached if a shape may be usable later, such as one without read permission.
    """
    path = cache_root() / "shapes" / f"unusable-{CACHE_VERSION}-{key}.json"
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
        cached = {int(index): str(message) for index, message in pairs}
        if all(0 <= index < count for index in cached):
            return cached
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    found, temporary = {}, False
    for index, error in _failures(count, check):
        found[index] = error.message
        temporary |= is_temporary(error)
    if not temporary:
        write_atomically(path, lambda file: file.write_text(json.dumps(list(found.items())), encoding="utf-8"))
    return found


def readable_names(names: list[str], root: Path, version: int, check: Callable[[Path], object]) -> list[str]:
    """Return the files below ``root`` that ``check`` accepts, and warn about the others. The result is cached on disk.

    Args:
        names: paths relative to ``root``.
        root: the folder.
        version: of the reader; increase it when ``check`` accepts other files.
        check: raises an :class:`InputError` for a file that cannot be used.

    Raises:
        InputError: no file can be used.
    """
    stamps = [(name, *file_stamp(root / name)) for name in names]
    key = digest("readable", version, str(root.resolve()), stamps)
    unusable = find_unusable_cached(key, len(names), lambda i: check(root / names[i]))
    log_skipped(list(unusable.values()), len(names), root)
    return [name for i, name in enumerate(names) if i not in unusable]


def summarize_unusable(messages: Sequence[str], total: int, cure: str) -> InputError:
    """Return an error that lists the first ten messages and counts all."""
    listed = "; ".join(messages[:LISTED])
    more = f"; and {len(messages) - LISTED:,} more" if len(messages) > LISTED else ""
    return InputError(f"{len(messages):,} of {total:,} shapes cannot be used: {listed}{more}; {cure}")


def log_skipped(messages: Sequence[str], total: int, where: str | Path) -> None:
    """Warn about shapes that are left out.

    Raises:
        InputError: all shapes are unusable.
    """
    if not messages:
        return
    if len(messages) == total:
        raise summarize_unusable(messages, total, "replace them")
    listed = "; ".join(messages[:LISTED]) + ("; ..." if len(messages) > LISTED else "")
    warn_first_process(f"skipping {len(messages):,} of {total:,} shapes in {where} that cannot be used: {listed}")


def warn_first_process(message: str) -> None:
    """Log a warning on rank 0, and not in workers of data loaders: all of them read the same shapes."""
    if get_worker_info() is None:
        rank_zero_only(log.warning)("%s", printable(message))
