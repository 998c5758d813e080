"""Copies between host and device that wait for nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor to ``device``. A copy from the host to a GPU goes through pinned memory, so the host does not wait."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


class HostCopy:
    """A copy of a tensor to the host, which starts now and runs while the device computes.

    On the CPU it is the tensor itself.
    """

    def __init__(self, x: Tensor) -> None:
        self._copy, self._event = x, None
        if x.device.type == "cuda":
            self._copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self._copy.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    def wait(self) -> Tensor:
        """Return the copy, once it is complete. Work queued after the copy need not be."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
