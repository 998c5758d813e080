"""SIGINT and SIGTERM while modules are imported. This module must not import torch.

An exception in the middle of an import is not reliable: extension modules such as numpy's replace it by their own error.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any


def exit_at_signals() -> None:
    """Let the process exit at once, with status 130 or 143, unless it ignores the signal. It must have nothing to save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _exit)


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


class Interrupts:
    """SIGINT raises KeyboardInterrupt, as a context manager, and SIGTERM ends the process as usual.

    Attributes:
        received: whether a SIGINT arrived. An exception after it may be its consequence.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number, handler in ((signal.SIGINT, self._handle), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) not in (_exit, signal.default_int_handler):
                continue  # of the program that calls this one, or ignored, as by nohup
            try:
                self._previous[number] = signal.signal(number, handler)
            except ValueError:  # only the main thread can handle signals
                break
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, _: int, __: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt
