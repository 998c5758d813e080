"""torch.compile for any module."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch._dynamo import config as dynamo_config
from torch._functorch import config as functorch_config
from torch.nn.modules.batchnorm import _BatchNorm

from renderers import InputError

MAX_VARIANTS = 64  # compiled variants of one network; a growing generator has the most


class CompileNetworks(pl.Callback):
    """Compiles the networks that a module trains: ``--trainer.callbacks+=callbacks.CompileNetworks``.

    The first steps take minutes. The module's ``compilable`` selects the networks; EMA networks, and so evaluations,
    samples and exports, are not compiled. Checkpoints do not change, so a run may resume with or without the callback.
    Compiled code rounds differently, so only a compiled run repeats a compiled run bit for bit.

    With several ranks batch norm is not compiled, which splits a network into several compiled parts.

    Args:
        backend: backend of ``torch.compile``.

    Raises:
        InputError: unknown backend.
    """

    def __init__(self, backend: str = "inductor") -> None:
        available = torch.compiler.list_backends(exclude_tags=())
        if backend not in available:
            raise InputError(f"CompileNetworks: torch has no backend {backend!r}; use one of {', '.join(available)}")
        self.backend = backend

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Mark the networks for compilation, which happens in the first step.

        Raises:
            InputError: the backend does not work on this machine.
        """
        check_backend(self.backend, trainer.strategy.root_device)
        functorch_config.donated_buffer = False  # IG-GAN goes through the graph of one forward twice
        dynamo_config.recompile_limit = MAX_VARIANTS
        dynamo_config.optimize_ddp = False  # splits graphs for DDP's hooks, which the modules do not use
        for network in pl_module.compilable():
            if trainer.world_size > 1:
                exclude_batch_norm(network)
            # Not dynamic: rounding must not depend on the shapes seen before.
            network.compile(backend=self.backend, dynamic=False)


def exclude_batch_norm(network: nn.Module) -> None:
    """Exclude batch norm from compilation, because it communicates with the other ranks."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]


def check_backend(backend: str, device: torch.device) -> None:
    """Compile a small function, to report a missing compiler before the first step.

    Raises:
        InputError: with the backend's reason.
    """
    try:
        torch.compile(lambda x: x.exp() + 1, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # backends and their compilers have different exceptions
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"CompileNetworks: {backend} does not work here ({reason}); it needs a C++ compiler and Python's headers "
            "(Debian or Ubuntu: apt-get install -y g++ python3-dev), or remove the callback"
        ) from error
