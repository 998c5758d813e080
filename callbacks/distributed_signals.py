"""Signals where several ranks train together: all of them stop after the same step, or none."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from utils.signals import STATUS, Signals


class RankSignals(Callback):
    """Lets all ranks stop together when a signal reaches one of them.

    Lightning's own handler sends a tensor to the other ranks from within the signal, whatever these are sending just then,
    and a rank that was asked leaves after its step, whether the others were asked or not; both may wait for ever. So with
    several ranks the handler is ours alone, and after each step, and each batch of an evaluation, the ranks agree.

    Args:
        signals: of this process.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._batches = 0  # of an evaluation: those that every rank has

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        trainer._signal_connector.register_signal_handlers = lambda: None
        self.signals.forward = getattr(trainer.strategy.launcher, "kill", None)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.signals.wait_for_step = True  # a rank that left at once would leave the others waiting for it

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._agree(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            own = sum(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)
            self._batches = -int(_greatest(trainer, -own))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx + 1 < self._batches:  # on its last batch no rank leaves
            self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        if trainer.world_size == 1:
            return
        received = _greatest(trainer, int(self.signals.received or 0))
        if received:
            self.signals.received = next(number for number in STATUS if number == received)
            trainer._signal_connector.received_sigterm = True  # Lightning leaves after this step


def _greatest(trainer: Trainer, number: int) -> float:
    value = torch.tensor(float(number), device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(value, reduce_op="max"))
