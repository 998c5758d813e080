"""What every data module of this project shares: the stream of a whole run, and its place after a resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.renders.cache import RenderCache
from datamodules.samplers import BatchPlan, ShareSampler, StepBatchSampler


class RunDataModule(pl.LightningDataModule):
    """One epoch is the whole run: ``total_kimg`` thousand items in batches of ``batch_size`` over all ranks.

    Set ``trainer.max_epochs: 1`` and let ``total_kimg`` say how long a run is; progress and time left then count the
    run, and ``val_check_interval: 0.1`` means ten evaluations.

    Args:
        batch_size: global batch size, all ranks together.
        total_kimg: length of the run in thousands of items.
        num_workers: processes that load or make the data.
        seed: of the data's order and of what it draws.
        batch_changes: (thousand items, batch size from there on), in order: growing networks take smaller batches at larger
            resolutions. Evaluation keeps ``batch_size``.
    """

    def __init__(
        self,
        batch_size: int,
        total_kimg: float,
        num_workers: int = 0,
        seed: int = 0,
        batch_changes: Sequence[tuple[float, int]] = (),
    ) -> None:
        super().__init__()
        self.batch_size, self.total_kimg, self.num_workers, self.seed = batch_size, total_kimg, num_workers, seed
        self.plan = BatchPlan(batch_size, 1000 * total_kimg, [(1000 * kimg, size) for kimg, size in batch_changes])

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        return self.plan.steps

    def stream(self, dataset: Dataset, items: int | None) -> DataLoader:
        """The run's batches of ``dataset``, from the step that the module has reached."""
        sampler = StepBatchSampler(
            items,
            self.plan,
            self.seed,
            start=getattr(self.trainer.lightning_module, "step", 0) if self.trainer else 0,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return self._loader(dataset, batch_sampler=sampler)

    def share(self, dataset: Dataset, items: int) -> DataLoader:
        """Every item once over all ranks, in order, for evaluation."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self._shared = ShareSampler(items, self.batch_size, rank, world_size)
        return self._loader(dataset, batch_sampler=self._shared)

    def batch_slice(self, batch: int) -> tuple[int, slice]:
        """Of one batch of what is shared out: how many items all ranks have in it, and which of these are this rank's."""
        return self._shared.part(batch)

    def caches(self) -> list[RenderCache]:
        """The images that training and evaluation need drawn and kept, to be prepared before; none of most data."""
        return []

    def predict_dataloader(self) -> DataLoader:
        """The numbers of the samples to predict: the generator's own matter, no data."""
        return self.trainer.lightning_module.predict_dataloader()

    def _loader(self, dataset: Dataset, **kwargs: Any) -> DataLoader:
        # Spawned, not forked: a process forked after OpenGL was used hangs.
        context = "spawn" if self.num_workers else None
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            multiprocessing_context=context,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images travel as bytes and become floats in [0, 1] on the device."""
        return to_float(batch)


def to_float(batch: Any) -> Any:
    """Every uint8 tensor in a nested batch divided by 255."""
    if isinstance(batch, Tensor):
        return batch.float() / 255 if batch.dtype == torch.uint8 else batch
    if isinstance(batch, dict):
        return {key: to_float(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_float(value) for value in batch)
    return batch
