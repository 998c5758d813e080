"""The order of the data, as a function of (seed, step, rank) and nothing else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from renderers import InputError


class BatchPlan:
    """Which positions of a run's stream each step takes: ``batch_size`` at first, another size from each change on.

    A change takes effect at the first step that begins at or after it, as a phase of growth does; the plan is a function of
    its arguments alone, so a resume needs nothing else.

    Args:
        batch_size: global batch size B of the first step.
        total: items of the whole run.
        changes: (items seen, global batch size from there on), in order.

    Raises:
        InputError: sizes below 1, or changes out of order.
    """

    def __init__(self, batch_size: int, total: float, changes: Sequence[tuple[float, int]] = ()) -> None:
        borders = [0.0, *(float(items) for items, _ in changes)]
        sizes = [batch_size, *(size for _, size in changes)]
        if min(sizes) < 1 or any(b <= a for a, b in pairwise(borders)):
            raise InputError(
                f"batch_size and batch_changes must be at least 1 and changes in order of images, got {batch_size} and "
                f"{[[items / 1000, size] for items, size in changes]}"
            )
        self.sizes, self._steps, self._positions = sizes, [0], [0]
        for border, size in zip(borders[1:], sizes, strict=False):
            steps = max(0, -int(-(min(border, total) - self._positions[-1]) // size))
            self._steps.append(self._steps[-1] + steps)
            self._positions.append(self._positions[-1] + steps * size)
        self.steps = max(1, self._steps[-1] + max(0, round((total - self._positions[-1]) / sizes[-1])))

    def __getitem__(self, step: int) -> tuple[int, int]:
        """The first position of a step, and how many it takes."""
        part = bisect_right(self._steps, step) - 1
        return self._positions[part] + (step - self._steps[part]) * self.sizes[part], self.sizes[part]


class StepBatchSampler(Sampler[list[int]]):
    """Batches of a whole run, from any step on.

    Position p of the run's stream of items is item ``permutation_e[p mod n]`` of epoch ``e = p // n``, each epoch
    permuted anew from (seed, e). A step takes the positions that the plan says, ``[s B, (s + 1) B)`` where the global batch
    size B does not change, and a rank its share of them, so that neither a resume nor the number of ranks changes the
    stream. An endless source (``items=None``) is simply walked: item p at position p.

    The length is that of the whole run, also when iteration begins in the middle: Lightning counts from the run's start.

    Args:
        items: number of items n, or None for an endless source.
        plan: positions of each step.
        seed: of the permutations.
        start: first step to give, the number of steps already done.
        rank, world_size: which share.
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
            raise InputError(f"batch_size {uneven[0]} (all ranks together) must be divisible by {world_size} ranks")
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
        """The item at one position of the stream."""
        if self.items is None:
            return position
        epoch, place = divmod(position, self.items)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.items)
        return int(self._order[place])


class ShareSampler(Sampler[list[int]]):
    """Batches of every item once, in order, for evaluation, cut by rank.

    Batch i of all ranks together is what one rank alone would have: items ``[i B, (i + 1) B)``, of which each rank has an
    even share, one after the other. Ranks without a share of the last batch do without it.

    Args:
        items: number of items.
        batch_size: B, all ranks together.
        rank, world_size: which share.
    """

    def __init__(self, items: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.items, self.batch_size, self.rank, self.world_size = items, batch_size, rank, world_size

    def part(self, batch: int) -> tuple[int, slice]:
        """How many items all ranks have in a batch, and which of these are this rank's."""
        whole = min(self.batch_size, self.items - batch * self.batch_size)
        start, stop = (whole * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return whole, slice(start, stop)

    def __len__(self) -> int:
        batches = -(-self.items // self.batch_size)
        last = self.part(batches - 1)[1]
        return batches - (last.start == last.stop)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            part, first = self.part(batch)[1], batch * self.batch_size
            yield list(range(first + part.start, first + part.stop))
