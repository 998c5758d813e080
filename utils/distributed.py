"""What processes that train together tell each other, beside batch norm: gradients, figures, and whether they agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 1 << 23  # numbers sent at once


class RanksDifferError(RuntimeError):
    """Ranks that must be alike are not: a defect of the program or of a machine."""


def this_rank() -> int:
    """The number of this process among those that train together, 0 if it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rank_count() -> int:
    """How many processes train together; 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverRanks(torch.autograd.Function):
    """Its own derivative: each rank's term reaches every rank's sum. So second derivatives (R1) exist as well."""

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
    """The sum of all ranks' tensors of one shape, with gradients that reach all of them.

    Every rank must call it, forward and backward, in the same order. Gradients are those of the sum of all ranks' losses.
    """
    return _SumOverRanks.apply(x) if rank_count() > 1 else x


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give each rank the mean of all ranks' gradients, bit for bit the same; weights without a gradient are left out.

    Every rank must have gradients of the same weights. While one bucket is sent, the next is filled.
    """
    sent = []
    for gradients in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([g.reshape(-1) for g in gradients]) / rank_count()
        sent.append((gradients, flat, dist.all_reduce(flat, async_op=True)))
    for gradients, flat, work in sent:
        work.wait()
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in order, of one type and about :data:`BUCKET` numbers each."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and (gradient.dtype != bucket[0].dtype or sum(g.numel() for g in bucket) >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def mean_over_ranks(values: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Numbers by name, each the mean of all ranks'; as given where there is one rank."""
    if rank_count() == 1 or not values:
        return dict(values)
    device = next((v.device for v in values.values() if isinstance(v, Tensor)), torch.device("cpu"))
    means = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=device).detach() for v in values.values()])
    dist.all_reduce(means)
    return dict(zip(values, means / rank_count(), strict=True))


def gather_over_ranks(value: Any) -> list[Any]:
    """What each rank gives, by rank; anything that can be pickled, tensors on the CPU."""
    if rank_count() == 1:
        return [value]
    values: list[Any] = [None] * rank_count()
    dist.all_gather_object(values, value)
    return values


def check_ranks(state: Mapping[str, Any]) -> None:
    """Compare what must be the same on all ranks, to the bit: weights, averages, buffers, optimizers, the clock.

    A fingerprint is compared first; names are sent where it differs.

    Args:
        state: nested mappings and lists of tensors and plain values, in the same order on every rank.

    Raises:
        RanksDifferError: on every rank alike, naming the first value that differs.
    """
    if rank_count() == 1:
        return
    prints = {name: _fingerprint(value) for name, value in _leaves(state)}
    whole = hashlib.blake2b(repr(prints).encode()).hexdigest()
    if len(set(gather_over_ranks(whole))) == 1:
        return
    first, *others = gather_over_ranks(prints)
    names = dict.fromkeys(name for ranks in (first, *others) for name in ranks)
    for name in names:
        strangers = [rank for rank, other in enumerate(others, 1) if other.get(name) != first.get(name)]
        if strangers:
            ranks = ", ".join(map(str, strangers))
            raise RanksDifferError(
                f"ranks no longer agree: {name} differs on rank {ranks} from rank 0, so no checkpoint was written; a draw "
                "or an update depends on the rank, or a machine computes wrongly"
            )


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, state


def _fingerprint(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    data = value.detach().cpu().contiguous()
    digest = hashlib.blake2b(data.reshape(-1).view(torch.uint8).numpy(), digest_size=16).hexdigest()
    return f"{value.dtype} {tuple(value.shape)} {digest}"
