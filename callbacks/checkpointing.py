"""Which checkpoints a run keeps: the last, the one before it, the best by FID, and, if asked for, some numbered ones."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from callbacks.metrics_log import main_metric
from utils.signals import Signals

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
NUMBERED = "step-*.ckpt"


class RunCheckpoint(Callback):
    """Writes ``last.ckpt`` every few minutes, after each evaluation, at the end and when a signal stops the training.

    ``previous.ckpt`` is the one before it, ``best.ckpt`` that of the lowest FID, or KID where there is no FID. To be the
    last of the callbacks: what the others do at an evaluation then stands on the disk before the checkpoint says that it
    is done.

    Args:
        folder: Where they are; None keeps nothing.
        minutes: Minutes between two writings.
        numbered: How many ``step-N.ckpt`` to keep, one an evaluation, the newest.
        signals: Told while a step should end first.
        healthy: Called before each writing; raises if the weights are not worth it.
    """

    def __init__(
        self,
        folder: Path | None,
        minutes: float,
        numbered: int,
        signals: Signals,
        healthy: Callable[[Trainer, LightningModule], None],
    ) -> None:
        self.folder, self.minutes, self.numbered = folder, minutes, numbered
        self.signals, self.healthy = signals, healthy
        self.saved = False  # whether the training's last state is on the disk
        self.best: dict[str, Any] = {}
        self._trained = False
        self._evaluating = False
        self._written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.wait_for_step = True
        self._trained = True
        self._written = time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        self.saved = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._written > 60 * self.minutes
        if trainer.world_size > 1:  # saving is a meeting of all ranks, so all must agree
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        # Between a step and its evaluation nothing is saved: Lightning would resume after the evaluation.
        evaluates = trainer.enable_validation and (batch_idx + 1) % trainer.val_check_batch == 0
        if due and not evaluates:
            self._save(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluating = False
        if trainer.sanity_checking or not self._trained or trainer.state.fn != "fit":
            return
        copies = [BEST] if self._improved(pl_module) else []
        if self.numbered:
            copies.insert(0, NUMBERED.replace("*", f"{_step(trainer, pl_module):09d}"))
        self._save(trainer, pl_module, copies)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, pl_module)
        self.signals.wait_for_step = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.signals.wait_for_step = False
        if isinstance(exception, SIGTERMException) and self._trained and not self.saved:
            self._save(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let an evaluation that a signal cut off be done again as a whole.

        Lightning tells by the loop's counts where a run resumes. Of these, one more batch begun than done means within
        the evaluation; none in the current one, from its first batch on.
        """
        if self._evaluating:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            done = progress["total"]["completed"]
            progress["total"] |= {"ready": done + 1, "started": done + 1, "processed": done, "completed": done}
            progress["current"] = dict.fromkeys(progress["current"], 0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a run that was finished go on where it has become longer: its one epoch is then not over."""
        if trainer.state.fn != "fit" or "loops" not in checkpoint:  # weights alone
            return
        progress = checkpoint["loops"]["fit_loop"]
        epoch, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
        steps = getattr(trainer.datamodule, "steps", 0)
        if epoch["current"]["processed"] and steps > batches["current"]["completed"]:
            for count in epoch.values():
                count |= {"processed": 0, "completed": 0}
            batches["is_last_batch"] = False

    def _improved(self, module: LightningModule) -> bool:
        """Whether the evaluation just done is the best; figures that were measured otherwise are no rivals."""
        found = getattr(module, "evaluation", {})
        name = main_metric(found)
        if not found.get(name, float("nan")) < float("inf"):
            return False
        now = {"metric": name, "note": module.evaluation_note, "value": float(found[name])}
        rival = all(self.best.get(key) == now[key] for key in ("metric", "note"))
        if rival and self.best["value"] <= now["value"]:
            return False
        self.best = now
        return True

    def _save(self, trainer: Trainer, module: LightningModule, copies: list[str] | None = None) -> None:
        """One checkpoint under several names; ``last.ckpt`` comes last, because a resume believes what it says."""
        if self.folder is None:
            return
        self.healthy(trainer, module)
        written = self.folder / f".{LAST}.new"
        try:
            trainer.save_checkpoint(written)
        except OSError as error:
            error.filename = str(self.folder / LAST)
            raise
        if trainer.is_global_zero:
            for name in copies or []:
                _copy(written, self.folder / name)
            if (self.folder / LAST).exists():
                _copy(self.folder / LAST, self.folder / PREVIOUS)
            written.replace(self.folder / LAST)
            _sync(self.folder)
            for path in sorted(self.folder.glob(NUMBERED))[: -self.numbered] if self.numbered else []:
                path.unlink()
        trainer.strategy.barrier("RunCheckpoint")  # no rank goes on, or leaves, before the file has its name
        self.saved = True
        self._written = time.monotonic()


def _step(trainer: Trainer, module: LightningModule) -> int:
    """Training steps done; Lightning's own count is of optimizer steps."""
    return getattr(module, "step", trainer.global_step)


def _copy(source: Path, target: Path) -> None:
    """Another name for a file that is never changed in place; a copy where the file system knows no such thing."""
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
    """Let the names of a folder's files reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
