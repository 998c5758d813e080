"""torch.compile for any module."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn
from torch._dynamo import config as tracing
from torch._functorch import config as graphs
from torch.nn.modules.batchnorm import _BatchNorm

from renderers import InputError

SIZES = 64  # variants of one network, each with kernels of its own; a growing generator has most


class CompileNetworks(pl.Callback):
    """Compiles the networks that a module trains: ``--trainer.callbacks+=callbacks.CompileNetworks``.

    The first steps take minutes. What is compiled a module says by ``compilable``; moving averages, and so evaluations,
    samples and exports, are not. Checkpoints stay as they are, so a run may go on with the callback or without; compiled
    sums round otherwise, and only a run that compiles again repeats a compiled one bit for bit.

    With several ranks batch norm stays as it is, and a network is compiled in the pieces between.

    Args:
        backend: of ``torch.compile``.

    Raises:
        InputError: torch has no such backend.
    """

    def __init__(self, backend: str = "inductor") -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise InputError(f"CompileNetworks: torch has no backend {backend!r}; it has {', '.join(known)}")
        self.backend = backend

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Compilation itself waits for the first step.

        Raises:
            InputError: this machine lacks what the backend needs.
        """
        try_out(self.backend, trainer.strategy.root_device)
        graphs.donated_buffer = False  # IG-GAN goes twice through the graph of one forward: its buffers must stay
        tracing.recompile_limit = SIZES
        tracing.optimize_ddp = False  # it cuts graphs for DDP's hooks, which this project's modules do not use
        for network in module.compilable():
            if trainer.world_size > 1:
                keep_batch_norm(network)
            network.compile(backend=self.backend, dynamic=False)  # by size: what was seen before changes no rounding


def keep_batch_norm(network: nn.Module) -> None:
    """Leave out batch norm, which asks the other ranks in the midst of its work."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = torch.compiler.disable(layer.forward)


def try_out(backend: str, device: torch.device) -> None:
    """Compile one small sum, so that a compiler that is missing is known before the first step.

    Raises:
        InputError: with the backend's own words.
    """
    try:
        torch.compile(lambda x: x.exp() + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # each backend, and each compiler below it, has its own
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"CompileNetworks: {backend} does not work here ({reason}); it needs a C++ compiler and Python's headers "
            "(Debian or Ubuntu: apt-get install -y g++ python3-dev), or leave the callback out"
        ) from error
