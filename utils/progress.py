"""Progress of long operations: a bar on a terminal, occasional plain lines in a log."""

from __future__ import annotations

import math
import sys
import time
from io import TextIOBase
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

MIN_SECONDS = 30.0  # between two lines
MIN_FRACTION = 0.05  # of the total between two lines, unless
MAX_SECONDS = 600.0  # have passed


def on_terminal(stream: TextIO | TextIOBase | None = None) -> bool:
    """Return whether a stream (default: stderr) is a terminal. A bar redraws itself, which makes a log unreadable."""
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty()


class Progress:
    """Progress of one operation, as a context manager.

    On a terminal it is a bar with the remaining time, which is erased at the end, also after an exception. Otherwise it
    is plain lines such as ``rendering chairs: 40 % (120 of 300 images), 1:20 left`` on stderr, as often as
    :class:`LogThrottle` allows. A short operation prints none.

    Args:
        total: total amount, or None if it is unknown.
        desc: what is being done.
        unit: unit of the amount, singular.
        initial: amount that was done before.
    """

    def __init__(self, total: int | None, desc: str, unit: str, initial: int = 0) -> None:
        self.desc, self.unit = desc, unit
        self._bar = None
        if on_terminal():
            self._bar = tqdm(total=total, desc=desc, unit=unit, initial=initial, leave=False, unit_scale=unit == "byte")
        self._lines = LogThrottle(math.inf if total is None else total, initial)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: int = 1) -> None:
        """Add ``amount`` to the amount done."""
        if self._bar is not None:
            self._bar.update(amount)
            return
        self._lines.done += amount
        if self._lines.due():
            of_total = "" if math.isinf(self._lines.total) else f" of {self._lines.total:,}"
            amount_done = f"{self._lines.done:,}{of_total} {self.unit}s"
            print(f"{self.desc}: {self._lines.describe(amount_done)}", file=sys.stderr, flush=True)


class LogThrottle:
    """Decides when a log gets another progress line.

    The first line comes after 30 seconds, to show early how long the operation will take. Later ones come every 5 % of
    the total, but at least 30 seconds and at most ten minutes apart.

    Args:
        total: total amount, or infinity if it is unknown.
        initial: amount that was done before.

    Attributes:
        done: current amount; set by the caller.
    """

    def __init__(self, total: float, initial: float = 0) -> None:
        self.total, self.done = total, initial
        self._initial = initial
        self._start = time.monotonic()
        self._last = (self._start, initial)

    def due(self) -> bool:
        """Return whether to print a line now. True starts the wait for the next one."""
        (last_time, last_done), now = self._last, time.monotonic()
        elapsed = now - last_time
        too_little = self.done - last_done < MIN_FRACTION * self.total and elapsed < MAX_SECONDS
        if elapsed < MIN_SECONDS or (too_little and last_time != self._start):
            return False
        self._last = (now, self.done)
        return True

    def describe(self, amount: str) -> str:
        """Return ``40 % (amount), 1:20 left``, or only ``amount`` if the total is unknown."""
        if math.isinf(self.total):
            return amount
        share = self.done / self.total if self.total else 1.0
        text = f"{100 * share:.0f} % ({amount})"
        gained = self.done - self._initial
        if gained <= 0:
            return text
        left = (time.monotonic() - self._start) * max(0.0, self.total - self.done) / gained
        return f"{text}, {tqdm.format_interval(left)} left"
