"""What every module of this project shares: its own clock and randomness that is a function of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


def random_stream(*key: int | str) -> torch.Generator:
    """A CPU generator that depends on nothing but ``key``, such as (seed, step, purpose).

    Draws made on the CPU and moved are the same on every device, and a resumed run makes them again without any saved
    state.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within, no gradient reaches the modules' parameters and spectral norm stands still; gradients pass *through*.

    Parameters that never enter the graph also keep distributed training's bookkeeping straight.
    """
    training = [m.training for m in modules]
    trainable = [p for m in modules for p in m.parameters() if p.requires_grad]
    for m in modules:
        m.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for m, mode in zip(modules, training, strict=True):
            m.train(mode)
        for p in trainable:
            p.requires_grad_(True)


class ClockedModule(pl.LightningModule):
    """A module that counts its own time: steps (training batches) and pictures seen.

    Lightning's ``global_step`` counts optimizer steps and so runs two or three times too fast in a GAN. All draws of a
    training step are made for the *global* batch and cut by rank, so the number of ranks changes nothing but speed.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seed = seed
        self.step = 0
        self.images_seen = 0

    @property
    def kimg(self) -> float:
        """Pictures seen, in thousands, over all ranks."""
        return self.images_seen / 1000

    def tick(self, local_batch: int) -> None:
        """Count one training step; to be called last in ``training_step``."""
        self.step += 1
        self.images_seen += local_batch * self.world_size

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1

    def random(self, purpose: str) -> torch.Generator:
        """The generator of this step for one purpose."""
        return random_stream(self.seed, self.step, purpose)

    def of_this_rank(self, whole: Any, local_batch: int) -> Any:
        """This rank's part of something drawn for the global batch (a tensor or a camera), on this rank's device."""
        start = self.global_rank * local_batch
        return whole[start : start + local_batch].to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["clock"] = {"step": self.step, "images_seen": self.images_seen, "seed": self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        clock = checkpoint.get("clock", {})
        self.step, self.images_seen = clock.get("step", 0), clock.get("images_seen", 0)

    def log_step(self, **values: Tensor | float) -> None:
        """Log a training step's numbers, with the clock as the x axis, to the progress bar and the loggers."""
        self.log_dict(values, prog_bar=True)
        self.log_dict({"kimg": self.kimg, "step": float(self.step)})

    def descend(self, optimizer: Any, loss: Tensor, *args: Any, **options: Any) -> None:
        """One step of one optimizer on one loss; ``args`` and ``options`` are those of ``Tensor.backward``."""
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss, *args, **options)
        optimizer.step()

    def anneal(self, optimizer: Any) -> None:
        """Let the learning rate fall to 0 along a cosine over the run; to be called before each step."""
        progress = min(1.0, self.step / max(1, self.trainer.num_training_batches))
        for group in optimizer.param_groups:
            initial = group.setdefault("initial_lr", group["lr"])
            group["lr"] = initial * (0.5 + 0.5 * math.cos(math.pi * progress))
