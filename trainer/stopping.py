"""Keeping the last checkpoint, and leaving at a signal without losing the training.

A signal during training only asks: the step under way ends first, so that the checkpoint lies between two steps and the
continued run is the run that was never stopped. Lightning looks at SIGTERM there, so SIGINT is passed on as SIGTERM.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(BaseException):
    """A signal came, and there is no step to wait for."""


class Signals:
    """SIGINT and SIGTERM while a command runs.

    ``received`` is the first signal that came; ``patient`` is set while there is a step that should end first.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Self:
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
        if not self.patient or again:
            raise Stopped
        if number == signal.SIGINT and first:
            print("\nstopping after this step (Ctrl-C again: at once, without saving)", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)


class KeepLast(Callback):
    """Writes ``last.ckpt`` every few minutes, at the end and when a signal stops the training.

    Args:
        path: The file; the one before it stays until the new one is whole. None keeps nothing.
        minutes: Minutes between two writings.
        signals: Told while a step should end first.
    """

    def __init__(self, path: Path | None, minutes: float, signals: Signals) -> None:
        self.path = path
        self.minutes = minutes
        self.signals = signals
        self.saved = False  # whether the training's last state is on the disk
        self._trained = False
        self._written = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.patient = True
        self._trained = True
        self._written = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        self.saved = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self.signals.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.patient = False
        if isinstance(exception, SIGTERMException) and self._trained:
            self._save(trainer)

    def _save_if_due(self, trainer: Trainer) -> None:
        due = time.monotonic() - self._written > 60 * self.minutes
        if trainer.world_size > 1:  # saving is a meeting of all ranks, so all must agree
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self.path is None:
            return
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.path)
        self.saved = True
        self._written = time.monotonic()
