"""Leaving at a signal without losing the training.

A signal during training only asks: the step under way ends first, so that the checkpoint lies between two steps and the
continued run is the run that was never stopped. Lightning looks at SIGTERM there, so SIGINT is passed on as SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from utils.distributed import this_rank

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(BaseException):
    """A signal came, and there is no step to wait for."""


class Signals:
    """SIGINT and SIGTERM while a command runs.

    ``received`` is the first signal that came, to this rank or another; ``patient`` is set while there is a step that
    should end first.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self.pass_on: Callable[[signal.Signals], None] | None = None  # to processes that this one started
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> "Signals":
        for number in STATUS:
            try:
                self._before[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: nothing to catch there
                break
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """The exit status that says which signal ended the command."""
        return STATUS[self.received or signal.SIGINT]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked data worker: the process that made it decides
            if number == signal.SIGTERM:
                os._exit(STATUS[signal.SIGTERM])
            return
        first = self.received is None
        again = number == signal.SIGINT and self.received == signal.SIGINT
        self.received = self.received or signal.Signals(number)
        if first and self.pass_on:
            self.pass_on(signal.SIGTERM)
        if not self.patient or again:
            raise Stopped
        if number == signal.SIGINT and first and this_rank() == 0:
            print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr, flush=True)
        if number == signal.SIGINT and first:
            os.kill(os.getpid(), signal.SIGTERM)
