"""Output into a pipe whose reader has ended, as in ``unrender doctor | head -1``. This module must not import torch."""

import os
import select
import sys
from contextlib import suppress
from typing import TextIO

STATUS = 141  # 128 + SIGPIPE, which is how shells report other programs that this happens to


def reader_is_gone() -> bool:
    """Whether the reader of stdout or stderr has closed it."""
    return any(map(_is_closed, (sys.stdout, sys.stderr)))


def discard_output() -> None:
    """Let stdout and stderr, if their reader is gone, write nowhere: Python would report an error when it flushes them."""
    for stream in filter(_is_closed, (sys.stdout, sys.stderr)):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        with suppress(OSError):
            stream.flush()


def _is_closed(stream: TextIO | None) -> bool:
    try:
        poll = select.poll()
        poll.register(stream, 0)  # type: ignore[arg-type]  # None raises TypeError
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, TypeError, ValueError):  # a stream without a file, as in tests and notebooks
        return False
