"""Communication between ranks: gradients, metrics, and checks that the ranks agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_SIZE = 1 << 23  # numbers per all-reduce
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_host_group: tuple[Any, Any] = (None, None)  # the process group that it was made for, and the group


class RanksDifferError(RuntimeError):
    """State that must be equal on all ranks differs: a defect of the program or of a machine."""


def this_rank() -> int:
    """Return the rank of this process; 0 outside of distributed training."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rank_count() -> int:
    """Return the number of ranks (the world size); 1 outside of distributed training and within :func:`each_rank_alone`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone.get() else 1


@contextmanager
def each_rank_alone() -> Iterator[None]:
    """Run networks on batches that are the same on all ranks: no statistics are shared between ranks."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def waiting_for_rank_zero() -> Iterator[None]:
    """Wait at the end until rank 0 arrives, however long it takes. Other collectives have a time limit, often 30 minutes.

    All ranks must enter it.
    """
    group = dist.new_group(timeout=timedelta(days=365), backend="gloo") if rank_count() > 1 else None
    try:
        yield
    finally:
        if group is not None:
            dist.barrier(group)
            dist.destroy_process_group(group)


def max_over_hosts(number: int) -> int:
    """Return the largest of the ranks' numbers without waiting for their devices. Every rank must call it."""
    global _host_group
    if rank_count() == 1:
        return number
    if _host_group[0] is not dist.group.WORLD:
        _host_group = dist.group.WORLD, dist.new_group(backend="gloo")
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX, _host_group[1])
    return int(value)


def copy_from_rank_zero(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0. Every rank must call it."""
    if rank_count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose backward pass is itself: each rank's term is part of every rank's sum.

    It is therefore differentiable twice, as R1 requires.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradient)


@torch.compiler.disable
def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor of the same shape on every rank, differentiably with respect to all of them.

    Every rank must call it, forward and backward, in the same order. Gradients are those of the sum of all ranks' losses.
    """
    return _SumOverRanks.apply(x) if rank_count() > 1 else x


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over the ranks, bit for bit equal on all of them.

    Every rank must have gradients of the same parameters; those without a gradient are skipped. The next bucket is filled
    while one is being sent.
    """
    pending = []
    for gradients in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([g.reshape(-1) for g in gradients]) / rank_count()
        pending.append((gradients, flat, dist.all_reduce(flat, async_op=True)))
    for gradients, flat, work in pending:
        work.wait()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Split gradients, in order, into buckets of one dtype and about :data:`BUCKET_SIZE` numbers."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or sum(g.numel() for g in bucket) >= BUCKET_SIZE):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def mean_over_ranks(values: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Average named numbers over the ranks. With one rank they are returned unchanged."""
    if rank_count() == 1 or not values:
        return dict(values)
    device = next((v.device for v in values.values() if isinstance(v, Tensor)), torch.device("cpu"))
    means = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=device).detach() for v in values.values()])
    dist.all_reduce(means)
    return dict(zip(values, means / rank_count(), strict=True))


def gather_over_ranks(value: Any) -> list[Any]:
    """Return the values of all ranks, in order of rank. Values must be picklable, with tensors on the CPU."""
    if rank_count() == 1:
        return [value]
    values: list[Any] = [None] * rank_count()
    dist.all_gather_object(values, value)
    return values


def check_ranks(state: Mapping[str, Any]) -> None:
    """Check that state is equal on all ranks, bit for bit: parameters, EMA, buffers, optimizers, step counts.

    One hash of everything is compared first; the hashes of all values are sent only if it differs.

    Args:
        state: nested mappings and lists of tensors and plain values, in the same order on every rank.

    Raises:
        RanksDifferError: on every rank, naming the first value that differs.
    """
    if rank_count() == 1:
        return
    hashes = {name: _hash(value) for name, value in _leaves(state)}
    total = hashlib.blake2b(repr(hashes).encode()).hexdigest()
    if len(set(gather_over_ranks(total))) == 1:
        return
    first, *others = gather_over_ranks(hashes)
    names = dict.fromkeys(name for rank_hashes in (first, *others) for name in rank_hashes)
    for name in names:
        differing = [rank for rank, other in enumerate(others, 1) if other.get(name) != first.get(name)]
        if differing:
            ranks = ", ".join(map(str, differing))
            raise RanksDifferError(
                f"the ranks no longer agree: {name} differs on rank {ranks} from rank 0, and no checkpoint was written; "
                "check for random numbers or updates that depend on the rank, and for faulty hardware"
            )


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of each leaf of nested mappings and sequences."""
    if isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, state


def _hash(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    data = value.detach().cpu().contiguous()
    digest = hashlib.blake2b(data.reshape(-1).view(torch.uint8).numpy().data, digest_size=16).hexdigest()
    return f"{value.dtype} {tuple(value.shape)} {digest}"
