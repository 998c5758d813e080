"""A loss that is NaN or infinite ends the training before anything good is overwritten."""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

NETWORKS = {"d": "discriminator", "g": "generator", "r": "neural renderer"}  # whose loss it is
STATUS = 3  # of the command: neither a bug nor a mistake in its input, and running it again changes nothing


class DivergedError(RuntimeError):
    """The training has left the numbers behind; the sentence names the step and the network."""


class TerminateOnNaN(Callback):
    """Looks at the losses of all steps every ``log_every_n_steps``, and at the weights before a checkpoint is written.

    A look waits for the device, so it is not taken at every step; the losses in between are kept, so that the first bad
    step is named. Modules tell their losses by ``losses``, as :class:`lightning_modules.base.ClockedModule` does.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, str, Tensor]] = []
        self._steps = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        losses = getattr(pl_module, "losses", {})
        self._seen += [(pl_module.step, name, value) for name, value in losses.items()]
        self._steps += 1
        if self._steps >= (trainer.log_every_n_steps or 50):
            self.check(trainer, pl_module, weights=False)

    def check(self, trainer: Trainer, module: LightningModule, weights: bool = True) -> None:
        """Look at the losses since the last look.

        Raises:
            DivergedError: One of them, or with ``weights`` one of the weights, is no finite number.
        """
        fault = self._loss(module.device) or (_weight(module) if weights else None)
        self._seen, self._steps = [], 0
        any_rank = fault is not None
        if trainer.world_size > 1:  # all ranks stop, or the others wait for ever for the one that did
            any_rank = trainer.strategy.reduce_boolean_decision(any_rank, all=False)
        if any_rank:
            raise DivergedError(fault or "the training of another rank diverged")

    def _loss(self, device: torch.device) -> str | None:
        if not self._seen:
            return None
        losses = [torch.as_tensor(value, device=device) for _, _, value in self._seen]
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses])
        for (step, name, _), value in zip(self._seen, values.tolist(), strict=True):
            if not math.isfinite(value):
                whose = f" of the {NETWORKS[name]}" if name in NETWORKS else ""
                return f"step {step}: the loss {name}{whose} is {value}"
        return None


def _weight(module: LightningModule) -> str | None:
    named = [(name, weight) for name, weight in module.named_parameters() if weight.is_floating_point()]
    if not named:
        return None
    finite = torch.stack([weight.detach().isfinite().all() for _, weight in named]).tolist()
    bad = next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)
    step = getattr(module, "step", "unknown")
    return f"step {step}: the weights {bad} are no longer finite" if bad else None
