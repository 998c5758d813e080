"""Memory, communication and random numbers of a training step, computed from the networks at full size.

Each optimizer steps once per training step, after the gradients of its weights were averaged over ranks
(:meth:`lightning_modules.base.ClockedModule.step_optimizer`). Batch norm and the minibatch deviation all-reduce sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from lightning_modules import IGGANModule, MeshGANModule
from lightning_modules.generative import GenerativeModule
from networks import StyleGANDiscriminator

DEVIATION_PASSES = 16  # all-reduces per deviation in a MeshGAN step: three forward and backward passes of D, and R1


@dataclass(frozen=True)
class Budget:
    """Bytes on one rank, and what grows with the global batch: the minibatch deviation and some random numbers.

    Args:
        weights: trainable weights.
        gradients: gradients of all of them, all-reduced in each step. MeshGAN's image layers below the current resolution
            have no gradients, less than 1 % of the total.
        optimizer: state of the optimizers, such as Adam's two moments.
        average: weights of the generator's EMA.
        other: batch-norm statistics, spectral-norm vectors, constants.
        batch_norm: sums of batch norm, all-reduced in each step.
        deviation: sums of the minibatch deviation, all-reduced in each step, per image of the global batch.
        draws: random numbers (not bytes) that every rank samples on the host, per image of the global batch.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    other: int
    batch_norm: int
    deviation: int
    draws: int = 0

    @property
    def state(self) -> int:
        """Bytes that a rank holds between steps, including gradients."""
        return self.weights + self.gradients + self.optimizer + self.average + self.other

    def all_reduced(self, batch: int) -> int:
        """Return the bytes that are all-reduced in a step with a global batch of ``batch`` images."""
        return self.gradients + self.batch_norm + self.deviation * batch


def budget(module: LightningModule) -> Budget:
    """Compute the bytes of a module with the optimizers that it configures."""
    configured: Any = module.configure_optimizers()
    optimizers: list[torch.optim.Optimizer] = configured if isinstance(configured, list) else [configured]
    fixed: set[nn.Parameter] = set()
    if isinstance(module, IGGANModule) and module.proxy == "fixed":
        fixed = set(module.neural_renderer.parameters())
    groups = [[p for group in o.param_groups for p in group["params"] if p not in fixed] for o in optimizers]
    learning = [p for group in groups for p in group]
    average = list(module.generator_ema.parameters()) if isinstance(module, GenerativeModule) else []
    known = {id(p) for p in [*learning, *average]}
    other = [x for x in [*module.parameters(), *module.buffers()] if id(x) not in known]
    norms = [m for m in _trained(module) if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    critics = [m for m in _trained(module) if isinstance(m, StyleGANDiscriminator) and m.stddev_group > 1]
    return Budget(
        weights=size(learning),
        gradients=size(learning),
        optimizer=sum(size(group) * slots(o) for o, group in zip(optimizers, groups, strict=True)),
        average=size(average),
        other=size(other),
        batch_norm=sum(4 * 4 * norm.num_features for norm in norms),  # two sums forward, two backward
        deviation=sum(DEVIATION_PASSES * 4 * 16 * m.last.weight.shape[0] // m.stddev_group for m in critics),
        draws=draws(module),
    )


def draws(module: LightningModule) -> int:
    """Return how many random numbers every rank samples in a step, per image of the global batch.

    MeshGAN samples latents and noise for the rank's own images alone. The numbers of augmentation are not counted.
    """
    angles = 2 if hasattr(module, "views") else 0
    if isinstance(module, MeshGANModule):
        return angles + 2  # the crop of the background
    latents = module.latent_size if isinstance(module, GenerativeModule) else 0
    if isinstance(module, IGGANModule):
        return latents // module.views_per_shape + angles + 1  # the threshold
    return latents + angles


def size(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(x.numel() * x.element_size() for x in tensors)


def slots(optimizer: torch.optim.Optimizer) -> int:
    """Return how many numbers an optimizer stores per weight, by a step on the smallest parameter with gradient 0."""
    smallest = min((p for group in optimizer.param_groups for p in group["params"]), key=Tensor.numel)
    smallest.grad = torch.zeros_like(smallest)
    optimizer.step()
    smallest.grad = None
    return sum(isinstance(x, Tensor) and x.shape == smallest.shape for x in optimizer.state[smallest].values())


def _trained(module: LightningModule) -> list[nn.Module]:
    children = [child for name, child in module.named_children() if name not in getattr(module, "local_batch_norm", ())]
    return [m for child in children for m in child.modules()]


def row(config: str, module: LightningModule, batch: int) -> dict[str, Any]:
    """Return a row of the table, in MB (10^6 bytes)."""
    cost = budget(module)
    parts = {"weights": cost.weights, "optimizer": cost.optimizer, "average": cost.average, "state": cost.state}
    parts |= {"all-reduced": cost.all_reduced(batch), "of it gradients": cost.gradients}
    names = {f"{name}_MB": value / 1e6 for name, value in parts.items()}
    return {"benchmark": "bytes of a step, computed", "part": config, "batch": batch, **names}
