"""What every module of this project shares: its own clock and randomness that is a function of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from networks.synced_layers import sync_batch_norm
from renderers import InputError, Renderer
from utils.distributed import average_gradients, check_ranks, mean_over_ranks
from utils.legacy_names import update_checkpoint


def seeded_generator(*key: int | str) -> torch.Generator:
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
    """A module that counts its own time: steps (training batches) and images seen.

    Lightning's ``global_step`` counts optimizer steps and so runs two or three times too fast in a GAN. All draws of a
    training step are made for the *global* batch and cut by rank, gradients are averaged over ranks here (whatever DDP's
    hooks would do), and batch norm sees all ranks' batches, so the number of ranks changes nothing but speed. Every
    checkpoint is preceded by a comparison of all ranks' states, see :func:`check_ranks`.

    Args:
        seed: of all draws.
    """

    unshared: tuple[str, ...] = ()  # children whose batch norm is never trained, and so looks at no other rank

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seed = seed
        self.step = 0
        self.images_seen = 0
        self.losses: dict[str, Tensor | float] = {}  # of the last step, for who watches them

    def setup(self, stage: str) -> None:
        """Make the networks ready for several ranks; before the optimizers are made.

        Raises:
            InputError: a strategy that cuts networks into pieces.
        """
        if stage != "fit" or self.world_size == 1:
            return
        strategy = self.trainer.strategy
        if not isinstance(strategy, DDPStrategy):
            raise InputError(f"trainer.strategy must be ddp for several ranks, not {type(strategy).__name__}")
        for name, network in self.named_children():
            if name not in self.unshared:
                sync_batch_norm(network, on_cpu=strategy.root_device.type == "cpu")

    @property
    def kimg(self) -> float:
        """Images seen, in thousands, over all ranks."""
        return self.images_seen / 1000

    def compilable(self) -> Iterator[nn.Module]:
        """What ``torch.compile`` may take: each network with weights to learn, also one within a renderer."""
        for child in self.children():
            if any(p.requires_grad for p in child.parameters()):
                yield from child.children() if isinstance(child, Renderer) else [child]

    def advance_step(self, local_batch: int) -> None:
        """Count one training step; to be called last in ``training_step``."""
        self.step += 1
        self.images_seen += local_batch * self.world_size

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self._trainer is not None else 1

    def random(self, purpose: str) -> torch.Generator:
        """The generator of this step for one purpose."""
        return seeded_generator(self.seed, self.step, purpose)

    def rank_slice(self, whole: Any, local_batch: int) -> Any:
        """This rank's part of something drawn for the global batch (a tensor or a camera), on this rank's device."""
        start = self.global_rank * local_batch
        return whole[start : start + local_batch].to(self.device)

    def batch_slice(self, batch_idx: int, local_batch: int) -> tuple[int, slice]:
        """Of one batch of an evaluation: how many items all ranks have in it, and which of these are this rank's."""
        data = self.trainer.datamodule
        if hasattr(data, "batch_slice"):
            return data.batch_slice(batch_idx)
        start = self.global_rank * local_batch
        return local_batch * self.world_size, slice(start, start + local_batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """All ranks come here, though one writes."""
        checkpoint["clock"] = {"step": self.step, "images_seen": self.images_seen, "seed": self.seed}
        check_ranks({key: checkpoint[key] for key in ("clock", "state_dict", "optimizer_states") if key in checkpoint})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        update_checkpoint(checkpoint)
        clock = checkpoint.get("clock", {})
        self.step, self.images_seen = clock.get("step", 0), clock.get("images_seen", 0)

    def log_step(self, **values: Tensor | float) -> None:
        """Log a training step's numbers, with the clock as the x axis, to the progress bar and the loggers."""
        self.losses = {name: value.detach() if isinstance(value, Tensor) else value for name, value in values.items()}
        self.log_dict(mean_over_ranks(values), prog_bar=True)
        self.log_dict({"kimg": self.kimg, "step": float(self.step)})

    def log_clock(self) -> None:
        """Log the clock beside an evaluation's figures."""
        self.log_dict({"kimg": self.kimg, "step": float(self.step)}, sync_dist=True)

    def log_more(self, **values: Tensor | float) -> None:
        """Log what stands beside the losses, to the loggers alone. Like the losses, means over all ranks."""
        self.log_dict(mean_over_ranks(values))

    def step_optimizer(self, optimizer: Any, loss: Tensor, *args: Any, **options: Any) -> None:
        """One step of one optimizer on one loss; ``args`` and ``options`` are those of ``Tensor.backward``.

        The gradients of this optimizer's weights, and no others, are averaged over ranks, each once. DDP's own hooks stand
        aside: they expect one backward a step that reaches every weight, which no GAN has.
        """
        optimizer.zero_grad(set_to_none=True)
        if self.world_size == 1:
            self.manual_backward(loss, *args, **options)
        else:
            with self.trainer.strategy.block_backward_sync():
                self.manual_backward(loss, *args, **options)
            average_gradients(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()

    def cosine_lr(self, optimizer: Any) -> None:
        """Let the learning rate fall to 0 along a cosine over the run; to be called before each step."""
        progress = min(1.0, self.step / max(1, self.trainer.num_training_batches))
        for group in optimizer.param_groups:
            initial = group.setdefault("initial_lr", group["lr"])
            group["lr"] = initial * (0.5 + 0.5 * math.cos(math.pi * progress))
