"""Stops training at a NaN or infinite loss before a good checkpoint is overwritten."""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

NETWORKS = {"d": "discriminator", "g": "generator", "r": "neural renderer"}  # by the name of their loss
STATUS = 3  # exit status: neither a bug nor invalid input, and a second run would end the same way


class DivergedError(RuntimeError):
    """Training diverged. The message names the step and the network."""


class TerminateOnNaN(Callback):
    """Checks the losses of all steps every ``log_every_n_steps``, and the weights before a checkpoint is written.

    A check synchronizes the device, so it does not run at every step. Losses are kept until then, so the message names
    the first bad step. Modules provide their losses as ``losses``, see :class:`lightning_modules.base.ClockedModule`.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[int, str, Tensor]] = []
        self._steps = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        losses = getattr(pl_module, "losses", {})
        self._losses += [(pl_module.step, name, value) for name, value in losses.items()]
        self._steps += 1
        if self._steps >= (trainer.log_every_n_steps or 50):
            self.check(trainer, pl_module, weights=False)

    def check(self, trainer: Trainer, module: LightningModule, weights: bool = True) -> None:
        """Check the losses since the last check and, with ``weights``, the weights.

        Raises:
            DivergedError: One of them is not finite.
        """
        problem = self._check_losses(module.device) or (_check_weights(module) if weights else None)
        self._losses, self._steps = [], 0
        diverged = problem is not None
        if trainer.world_size > 1:  # all ranks must stop, or the others wait for the one that did
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            raise DivergedError(problem or "training diverged on another rank")

    def _check_losses(self, device: torch.device) -> str | None:
        if not self._losses:
            return None
        losses = [torch.as_tensor(value, device=device) for _, _, value in self._losses]
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses])
        for (step, name, _), value in zip(self._losses, values.tolist(), strict=True):
            if not math.isfinite(value):
                network = f" of the {NETWORKS[name]}" if name in NETWORKS else ""
                return f"step {step}: loss {name}{network} is {value}"
        return None


def _check_weights(module: LightningModule) -> str | None:
    named = [(name, weight) for name, weight in module.named_parameters() if weight.is_floating_point()]
    if not named:
        return None
    finite = torch.stack([weight.detach().isfinite().all() for _, weight in named]).tolist()
    bad = next((name for (name, _), good in zip(named, finite, strict=True) if not good), None)
    step = getattr(module, "step", "unknown")
    return f"step {step}: weights {bad} are not finite" if bad else None
