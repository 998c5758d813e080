"""Batch samplers whose order is a function of (seed, step, rank) alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from utils.errors import InputError, check_number


class BatchPlan:
    """Maps each training step to its positions in the run's sequence of items.

    A new batch size takes effect at the first step that starts at or after its change, as a growing phase does. The plan is
    a function of its arguments alone, so resuming needs no saved state.

    Args:
        batch_size: global batch size of the first step.
        total: number of items in the whole run.
        changes: pairs of (items seen, global batch size from there on), in order.

    Raises:
        InputError: a number is out of range, or the changes are not in order.
    """

    def __init__(self, batch_size: int, total: float, changes: Sequence[tuple[float, int]] = ()) -> None:
        check_number("total_kimg", total / 1000, above=0)
        check_number("batch_size", batch_size, at_least=1)
        for items, size in changes:
            check_number("kimg in batch_changes", items / 1000, above=0)
            check_number("batch size in batch_changes", size, at_least=1)
        borders = [0, *(round(items) for items, _ in changes)]  # whole items: 1000 * 4.03 is slightly more than 4030
        sizes = [batch_size, *(size for _, size in changes)]
        if any(b <= a for a, b in pairwise(borders)):
            raise InputError(
                f"batch_changes must be in increasing order of kimg, got {[[items / 1000, size] for items, size in changes]}"
            )
        self.sizes, self._steps, self._positions = sizes, [0], [0]
        for border, size in zip(borders[1:], sizes, strict=False):
            steps = max(0, -int(-(min(border, total) - self._positions[-1]) // size))
            self._steps.append(self._steps[-1] + steps)
            self._positions.append(self._positions[-1] + steps * size)
        self.steps = max(1, self._steps[-1] + max(0, round((total - self._positions[-1]) / sizes[-1])))

    def __getitem__(self, step: int) -> tuple[int, int]:
        """Return the first position of a step and its global batch size."""
        part = bisect_right(self._steps, step) - 1
        return self._positions[part] + (step - self._steps[part]) * self.sizes[part], self.sizes[part]


class StepBatchSampler(Sampler[list[int]]):
    """Yields the batches of a whole run, starting at any step.

    Position p of the run's sequence is item ``permutation_e[p mod n]`` of epoch ``e = p // n``; each epoch has its own
    permutation, seeded by (seed, e). A step takes the positions given by the plan, ``[s B, (s + 1) B)`` for a constant
    global batch size B, and each rank takes its contiguous part of them. So neither resuming nor the number of ranks changes
    the sequence. For an infinite dataset (``items=None``), position p is item p.

    The length is that of the whole run even if iteration starts later, because Lightning counts from the start of the run.

    Args:
        items: number of items n, or None for an infinite dataset.
        plan: positions of each step.
        seed: seed of the permutations.
        start: first step to yield, which is the number of completed steps.
        rank, world_size: this process and the number of processes.

    Raises:
        InputError: a batch size is not divisible by the number of ranks.
    """

    def __init__(
        self,
        items: int | None,
        plan: BatchPlan,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if uneven := [size for size in plan.sizes if size % world_size]:
            raise InputError(f"batch_size {uneven[0]} (over all ranks) must be divisible by {world_size} ranks")
        self.items, self.plan, self.seed = items, plan, seed
        self.start, self.rank, self.world_size = start, rank, world_size
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.plan.steps):
            position, size = self.plan[step]
            local = size // self.world_size
            first = position + self.rank * local
            yield [self.item(p) for p in range(first, first + local)]

    def item(self, position: int) -> int:
        """Return the item at a position of the run's sequence."""
        if self.items is None:
            return position
        epoch, offset = divmod(position, self.items)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.items)
        return int(self._order[offset])


class EvaluationSampler(Sampler[list[int]]):
    """Yields every item once, in order, distributed over the ranks.

    Global batch i consists of items ``[i B, (i + 1) B)``, as with one rank; each rank takes an even, contiguous part. A rank
    whose part of the last batch is empty skips that batch.

    Args:
        items: number of items.
        batch_size: global batch size B.
        rank, world_size: this process and the number of processes.

    Raises:
        InputError: a batch has fewer items than there are ranks.
    """

    def __init__(self, items: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < world_size:
            raise InputError(f"batch_size {batch_size} (over all ranks) must be at least {world_size}, one per rank")
        self.items, self.batch_size, self.rank, self.world_size = items, batch_size, rank, world_size

    def batch_slice(self, batch: int) -> tuple[int, slice]:
        """Return the size of a global batch and this rank's slice of it."""
        size = min(self.batch_size, self.items - batch * self.batch_size)
        start, stop = (size * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return size, slice(start, stop)

    def __len__(self) -> int:
        batches = -(-self.items // self.batch_size)
        last = self.batch_slice(batches - 1)[1]
        return batches - (last.start == last.stop)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            part, first = self.batch_slice(batch)[1], batch * self.batch_size
            yield list(range(first + part.start, first + part.stop))
