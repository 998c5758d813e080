"""Signals in distributed training: all ranks stop after the same step."""

import signal
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from utils.distributed import max_over_hosts
from utils.signals import Signals

PRIORITY = (None, signal.SIGTERM, signal.SIGINT)  # SIGINT last: rank 0 forwards it as SIGTERM


class RankSignals(Callback):
    """Stops all ranks together when one of them receives a signal.

    Lightning's own handler sends a tensor to the other ranks from inside the signal handler, in the middle of whatever
    they are sending, and a signalled rank exits after its step even if the others do not. Both can deadlock. So with
    several ranks Lightning's handler is not installed, and the ranks agree after each step and each evaluation batch.

    Args:
        signals: Signal handler of this process.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._common_batches = 0  # batches of an evaluation that every rank has

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = lambda: None
        self.signals.forward = getattr(trainer.strategy.launcher, "kill", None)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.signals.wait_for_step = True  # a rank that exits at once would leave the others waiting

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._agree(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            batches = sum(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)
            self._common_batches = -max_over_hosts(-int(batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx + 1 < self._common_batches:  # no rank stops at its last batch
            self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        if trainer.world_size == 1:
            return
        self.signals.received = PRIORITY[max_over_hosts(PRIORITY.index(self.signals.received))]
        if self.signals.received:
            trainer._signal_connector.received_sigterm = True  # Lightning stops after this step
