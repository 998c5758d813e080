"""Checkpoints of a run: the last one, the one before it, the best one and, optionally, numbered ones."""

import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.monitor import DEFAULT, Monitor
from utils.distributed import max_over_hosts
from utils.signals import Signals

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NUMBERED = "step-*.ckpt"


class RunCheckpoint(Callback):
    """Writes ``last.ckpt`` every few minutes, after each evaluation, at the end, and when a signal stops training.

    ``previous.ckpt`` is the last checkpoint but one. ``best.ckpt`` has the best value of the monitored metric. This must
    be the last callback, so that the files of the other callbacks are on disk before the checkpoint marks an evaluation as
    done.

    Args:
        folder: Checkpoint directory; None writes no checkpoints.
        minutes: Minutes between two checkpoints.
        numbered: Number of ``step-N.ckpt`` to keep, the newest; one is written per evaluation.
        signals: Signal handler; it waits for the end of a step during training.
        check: Called before each checkpoint; raises if the weights must not be saved.
        monitor: The metric that ``best.ckpt`` follows.
    """

    def __init__(
        self,
        folder: Path | None,
        minutes: float,
        numbered: int,
        signals: Signals,
        check: Callable[[Trainer, LightningModule], None],
        monitor: Monitor = DEFAULT,
    ) -> None:
        self.folder, self.minutes, self.numbered = folder, minutes, numbered
        self.signals, self.check, self.monitor = signals, check, monitor
        self.saved = False  # whether the last state of training is on disk
        self.progressed = False  # whether this process made a training step or saved
        self.best: dict[str, Any] = {}
        self._trained = False
        self._evaluating = False
        self._last_save = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.wait_for_step = True
        self._trained = True
        self._last_save = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        self.saved = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.progressed = True
        due = time.monotonic() - self._last_save > 60 * self.minutes
        due = bool(max_over_hosts(due))  # saving synchronizes the ranks, so all must agree
        # Do not save between a step and its evaluation: Lightning would resume after the evaluation.
        interval: Any = trainer.val_check_batch
        # The interval is None if evaluations are due after some time.
        evaluates = trainer.enable_validation and interval and (batch_idx + 1) % interval == 0
        if due and not evaluates:
            self._save(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluating = False
        if trainer.state.fn == "fit":
            self.monitor.check(getattr(pl_module, "evaluation", {}))
        if trainer.sanity_checking or not self._trained or trainer.state.fn != "fit":
            return
        best = self.best_with(pl_module)
        copies = [BEST] if best is not self.best else []
        self.best = best
        if self.numbered:
            step = getattr(pl_module, "step", trainer.global_step)  # Lightning counts optimizer steps
            copies.insert(0, NUMBERED.replace("*", f"{step:09d}"))
        self._save(trainer, pl_module, copies)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)
        self.signals.wait_for_step = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.wait_for_step = False
        if isinstance(exception, SIGTERMException) and self._trained and not self.saved:
            self._save(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make a resumed run repeat an evaluation that a signal interrupted, from its first batch.

        Lightning resumes by the counters of the evaluation loop: inside the evaluation if more batches were started than
        completed in total, and at its first batch if the current counters are 0.
        """
        checkpoint["epoch_steps"] = epoch_steps(trainer)
        if self._evaluating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
            progress["current"] = dict.fromkeys(progress["current"], 0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue a run that was stopped before its end, or given more steps: mark its last epoch as unfinished.

        The checkpoint of the last evaluation is written before its epoch ends, but after the epoch's last batch.
        """
        if trainer.state.fn != "fit" or "loops" not in checkpoint:  # weights only
            return
        checkpoint.get("callbacks", {}).pop(Timer().state_key, None)  # max_time limits each start, not their sum
        progress = checkpoint["loops"]["fit_loop"]
        epoch, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
        steps = getattr(getattr(trainer, "datamodule", None), "steps", None) or checkpoint.get("epoch_steps") or 0
        if steps > batches["current"]["completed"]:
            for count in epoch.values():
                count |= dict.fromkeys(("processed", "completed"), max(0, count["ready"] - 1))
            batches["is_last_batch"] = False

    def best_with(self, module: LightningModule) -> dict[str, Any]:
        """Return the best evaluation so far, including the module's last one: ``metric``, ``note`` and ``value``.

        Values of another metric or with another note are not compared: the last evaluation then is the best.
        """
        evaluation: dict[str, Any] = getattr(module, "evaluation", {})
        name = self.monitor.name(evaluation)
        if not math.isfinite(evaluation.get(name, math.nan)):
            return self.best
        current: dict[str, Any] = {"metric": name, "note": module.evaluation_note, "value": float(evaluation[name])}
        comparable = all(self.best.get(key) == current[key] for key in ("metric", "note"))
        if comparable and not self.monitor.is_better(name, current["value"], self.best["value"]):
            return self.best
        return current

    def _save(self, trainer: Trainer, module: LightningModule, copies: list[str] | None = None) -> None:
        """Write one checkpoint under several names; ``last.ckpt`` comes last, because a resumed run relies on it."""
        if self.folder is None:
            return
        self.check(trainer, module)
        new = self.folder / f".{LAST}.new"
        try:
            trainer.save_checkpoint(new)
        except OSError as error:
            error.filename = str(self.folder / LAST)
            raise
        if trainer.is_global_zero:
            for name in copies or []:
                _copy(new, self.folder / name)
            if (self.folder / LAST).exists():
                _copy(self.folder / LAST, self.folder / PREVIOUS)
            new.replace(self.folder / LAST)
            _sync(self.folder)
            for path in sorted(self.folder.glob(NUMBERED))[: -self.numbered] if self.numbered else []:
                path.unlink()
        trainer.strategy.barrier("RunCheckpoint")  # no rank continues or exits before the file has its final name
        self.saved = self.progressed = True
        self._last_save = time.monotonic()


def epoch_steps(trainer: Any) -> int | None:
    """Return the steps of an epoch that the data module plans, whatever ends it earlier; None if it has no length."""
    steps = getattr(getattr(trainer, "datamodule", None), "steps", None)
    if steps is None and (loader := trainer.train_dataloader) is not None:
        with suppress(TypeError):
            steps = len(loader)
    return steps


def progress(trainer: Any) -> tuple[int, int | None]:
    """Return how many training steps a run has done and how many it plans; None if they are not limited.

    The data module plans them: the steps of an epoch, ``trainer.max_epochs`` times. ``max_time``, ``max_steps``,
    ``limit_train_batches`` and callbacks may end ``Trainer.fit`` earlier.
    """
    done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
    steps, epochs = epoch_steps(trainer), trainer.max_epochs
    if hasattr(trainer.datamodule, "steps"):
        epochs = 1
    return done, None if steps is None or epochs is None or epochs < 0 else steps * epochs


def _copy(source: Path, target: Path) -> None:
    """Hard-link a file that is never modified in place, or copy it if the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        try:
            shutil.copyfile(source, temporary)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            error.filename, error.filename2 = str(target), None
            raise
    temporary.replace(target)


def _sync(folder: Path) -> None:
    """Flush the directory entry of renamed files to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
