"""What a training keeps in memory and tells other ranks, computed from its networks at their full size.

Each optimizer steps once a training step, and before that the gradients of its weights are averaged over ranks, once
(:meth:`lightning_modules.base.ClockedModule.step_optimizer`). Batch norm and the minibatch deviation send sums beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from networks import StyleGANDiscriminator

DEVIATION_PASSES = 16  # sums of a deviation in a MeshGAN step: D thrice forward and backward, R1's second derivatives


@dataclass(frozen=True)
class Budget:
    """Bytes of one rank; all but the last do not depend on the batch.

    Args:
        weights: that learn.
        gradients: of all of them, and so what is all-reduced a step. MeshGAN's images of lower resolutions than that
            in training get none, less than 1 % of it.
        optimizer: what the optimizers keep, such as Adam's two moments.
        average: weights of the generator's moving average.
        other: batch-norm statistics, spectral-norm vectors, constants.
        batch_norm: sums of batch norm that are all-reduced a step.
        deviation: sums of the minibatch deviation that are all-reduced a step, for each image of the whole batch.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    other: int
    batch_norm: int
    deviation: int

    @property
    def state(self) -> int:
        """What a rank keeps from step to step, gradients included."""
        return self.weights + self.gradients + self.optimizer + self.average + self.other

    def reduced(self, batch: int) -> int:
        """Bytes all-reduced in a step of so many images, all ranks together."""
        return self.gradients + self.batch_norm + self.deviation * batch


def budget(module: LightningModule) -> Budget:
    """The bytes of a module whose optimizers are as it makes them."""
    optimizers = module.configure_optimizers()
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    resting = set(module.neural_renderer.parameters()) if getattr(module, "proxy", None) == "fixed" else set()
    groups = [[p for group in o.param_groups for p in group["params"] if p not in resting] for o in optimizers]
    learning = [p for group in groups for p in group]
    average = list(module.generator_ema.parameters()) if hasattr(module, "generator_ema") else []
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
    )


def size(tensors: list[Tensor]) -> int:
    """Bytes."""
    return sum(x.numel() * x.element_size() for x in tensors)


def slots(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers an optimizer keeps for each weight, seen at the smallest one; its gradient is 0."""
    smallest = min((p for group in optimizer.param_groups for p in group["params"]), key=Tensor.numel)
    smallest.grad = torch.zeros_like(smallest)
    optimizer.step()
    smallest.grad = None
    kept = [x for x in optimizer.state[smallest].values() if isinstance(x, Tensor) and x.shape == smallest.shape]
    return len(kept)


def _trained(module: LightningModule) -> list[nn.Module]:
    children = [child for name, child in module.named_children() if name not in getattr(module, "unshared", ())]
    return [m for child in children for m in child.modules()]


def row(config: str, module: LightningModule, batch: int) -> dict[str, Any]:
    """A line of the table: MB, 10^6 bytes."""
    found = budget(module)
    parts = {"weights": found.weights, "optimizer": found.optimizer, "average": found.average, "state": found.state}
    parts |= {"all-reduced": found.reduced(batch), "of it gradients": found.gradients}
    names = {f"{name}_MB": value / 1e6 for name, value in parts.items()}
    return {"benchmark": "bytes of a step, computed", "part": config, "batch": batch, **names}
