"""Stopping at a signal without losing training progress.

A signal during training only requests a stop: the current step ends first, so that the checkpoint is between two steps
and the resumed run equals an uninterrupted one. Lightning checks for SIGTERM there, so SIGINT is re-sent as SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from types import FrameType, TracebackType
from typing import Any

from utils.distributed import this_rank

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(BaseException):
    """A signal arrived while there was no step to finish."""


class Signals:
    """Handler of SIGINT and SIGTERM while a command runs, as a context manager.

    Attributes:
        received: the first signal, received by this rank or another one; None before.
        wait_for_step: whether a step is running that must end before the process stops.
        forward: sends a signal to the processes that this one started, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.wait_for_step = False
        self.forward: Callable[[signal.Signals], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Signals:
        for number in STATUS:
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread can handle signals
                break
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """Exit status of a command that the received signal stopped."""
        return STATUS[self.received or signal.SIGINT]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked data worker: its parent decides about SIGINT
            if number == signal.SIGTERM:
                os._exit(STATUS[signal.SIGTERM])
            return
        first = self.received is None
        repeated = number == signal.SIGINT and self.received == signal.SIGINT
        self.received = self.received or signal.Signals(number)
        if first and self.forward:
            self.forward(signal.SIGTERM)
        if not self.wait_for_step or repeated:
            raise Stopped
        if number == signal.SIGINT and first:
            if this_rank() == 0:
                message = "\nstopping after this step (press Ctrl-C again to stop at once, without saving)"
                print(message, file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)


class WorkerProcess(SpawnProcess):
    """A data worker that ignores SIGINT and SIGTERM from its start, while it imports modules, to its end.

    Both are usually sent to all processes of a command. Its parent stops the worker, after the step that needs its data.
    """

    def start(self) -> None:
        resource_tracker.ensure_running()  # otherwise started below, where it would unblock the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STATUS)
        try:
            super().start()  # the worker inherits the mask
            process: Any = self
            process._popen.terminate = process._popen.kill  # SIGTERM would be blocked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerContext(SpawnContext):
    """The ``multiprocessing_context`` of data loaders. Spawn: a process that is forked after OpenGL was used hangs."""

    Process = WorkerProcess
