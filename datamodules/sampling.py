"""The order of the data, as a function of (seed, step, rank) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from renderers import InputError


class StepBatchSampler(Sampler[list[int]]):
    """Batches of a whole run, from any step on.

    Position p of the run's stream of items is item ``permutation_e[p mod n]`` of epoch ``e = p // n``, each epoch
    permuted anew from (seed, e). Step s of a run takes positions ``[s B, (s + 1) B)`` of the global batch size B and a
    rank its share of them, so that neither a resume nor the number of ranks changes the stream. An endless source
    (``items=None``) is simply walked: item p at position p.

    The length is that of the whole run, also when iteration begins in the middle: Lightning counts from the run's start.

    Args:
        items: number of items n, or None for an endless source.
        batch_size: global batch size B.
        steps: number of steps of the run.
        seed: of the permutations.
        start: first step to give, the number of steps already done.
        rank, world_size: which share.
    """

    def __init__(
        self,
        items: int | None,
        batch_size: int,
        steps: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise InputError(f"batch_size {batch_size} (all ranks together) must be divisible by {world_size} ranks")
        self.items, self.batch_size, self.steps, self.seed = items, batch_size, steps, seed
        self.start, self.rank, self.world_size = start, rank, world_size
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        local = self.batch_size // self.world_size
        for step in range(self.start, self.steps):
            first = step * self.batch_size + self.rank * local
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
