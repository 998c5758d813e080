"""Progress of what takes more than a few seconds: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from io import TextIOBase
from types import TracebackType

from tqdm import tqdm

QUIET_SECONDS = 30.0  # at least, between two lines
QUIET_FRACTION = 0.05  # of the whole, unless
LONG_SECONDS = 600.0  # have passed


def on_terminal(stream: TextIOBase | None = None) -> bool:
    """Whether somebody watches: a bar draws over itself, which makes a log unreadable."""
    watched = sys.stderr if stream is None else stream
    return watched is not None and watched.isatty()


def say(line: str) -> None:
    """One line of a log."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Progress:
    """How much has been done; the bar disappears as the ``with`` ends, also by an error.

    On a terminal a bar with the time left, redrawn in place. Else plain lines such as
    ``drawing chairs: 40 % (120 of 300 images), 1:20 left``: the first after half a minute, then one each 5 % but not more
    than one in half a minute, and at least one in ten minutes. So what is quickly done says nothing.

    Args:
        total: the whole amount, or None where it is not known.
        desc: what is being done.
        unit: of what, in the singular.
        initial: how much had been done before.
    """

    def __init__(self, total: int | None, desc: str, unit: str, initial: int = 0) -> None:
        self.desc, self.unit = desc, unit
        options = {"unit_scale": True} if unit == "byte" else {}
        watched = on_terminal()
        self._bar = (
            tqdm(total=total, desc=desc, unit=unit, initial=initial, leave=False, **options) if watched else None
        )
        self._lines = SparseLines(math.inf if total is None else total, initial)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, amount: int = 1) -> None:
        """So much more has been done."""
        if self._bar is not None:
            self._bar.update(amount)
            return
        self._lines.done += amount
        if self._lines.due():
            of = "" if math.isinf(self._lines.total) else f" of {self._lines.total:,}"
            say(f"{self.desc}: {self._lines.standing(f'{self._lines.done:,}{of} {self.unit}s')}")


class SparseLines:
    """When a log is to have another line about what is ``done`` of ``total``."""

    def __init__(self, total: float, initial: float = 0.0) -> None:
        self.total, self.done = total, initial
        self._initial = initial
        self._began = time.monotonic()
        self._last = (self._began, initial)

    def due(self) -> bool:
        """Whether now is the time; it then is not until the next."""
        (then, before), now = self._last, time.monotonic()
        waited = now - then
        little = self.done - before < QUIET_FRACTION * self.total and waited < LONG_SECONDS
        if waited < QUIET_SECONDS or (little and then != self._began):  # the first says soon how long it will take
            return False
        self._last = (now, self.done)
        return True

    def standing(self, amount: str) -> str:
        """``40 % (amount), 1:20 left``; the amount alone of what has no end."""
        if math.isinf(self.total):
            return amount
        share = self.done / self.total if self.total else 1.0
        gained = self.done - self._initial
        if gained <= 0:
            return f"{share:.0%} ({amount})".replace("%", " %")
        left = (time.monotonic() - self._began) * max(0.0, self.total - self.done) / gained
        return f"{share:.0%} ({amount}), {tqdm.format_interval(left)} left".replace("%", " %")
