"""Base classes of the data modules: one epoch per run, resumable from any step, with images as bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytorch_lightning as pl
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from datamodules.renders.cache import RenderCache
from datamodules.samplers import BatchPlan, EvaluationSampler, StepBatchSampler
from utils.errors import InputError, check_number
from utils.files import cache_root
from utils.signals import WorkerContext

T = TypeVar("T")


class RunDataModule(pl.LightningDataModule):
    """A data module whose single epoch is the whole run: ``total_kimg`` thousand items in global batches.

    Set ``trainer.max_epochs: 1`` and set the run's length by ``total_kimg``. Progress bars and remaining times then refer to
    the whole run, and ``val_check_interval: 0.1`` means ten evaluations during it.

    Args:
        batch_size: global batch size, over all ranks.
        total_kimg: length of the run in thousands of items.
        num_workers: number of worker processes that load or generate the data.
        seed: seed of the data order and of generated data.
        batch_changes: pairs of (thousand items, global batch size from there on), in order. Progressive growing uses smaller
            batches at higher resolutions. Evaluation always uses ``batch_size``.

    Raises:
        InputError: a number out of range.
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
        check_number("num_workers", num_workers, at_least=0)
        check_number("seed", seed, at_least=0)
        self.batch_size, self.total_kimg, self.num_workers, self.seed = batch_size, total_kimg, num_workers, seed
        self.plan = BatchPlan(batch_size, 1000 * total_kimg, [(1000 * kimg, size) for kimg, size in batch_changes])
        self._cached: dict[tuple[str, int], Any] = {}  # by name and fast_dev_run

    @property
    def steps(self) -> int:
        """Number of training steps in the whole run."""
        return self.plan.steps

    @property
    def _rank(self) -> tuple[int, int]:
        """This process's rank and the world size."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _stage(self) -> str | None:
        """The trainer's current function, such as ``fit`` or ``predict``; None without a trainer."""
        return self.trainer.state.fn if self.trainer else None

    @property
    def fast_dev_run(self) -> int:
        """Number of batches of a smoke run, the trainer's ``fast_dev_run``; 0 for a whole run or without a trainer."""
        return int(getattr(self.trainer, "fast_dev_run", 0))

    def needed(self, items: int, groups: int = 1) -> int:
        """Return how many of ``items`` must be prepared in each of ``groups``: in a smoke run, those of its batches."""
        return min(items, -(-self.fast_dev_run * max(self.plan.sizes) // groups)) if self.fast_dev_run else items

    def cached(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returned in the first call with this name. A smoke run, which needs less, has its own."""
        key = name, self.fast_dev_run
        if key not in self._cached:
            self._cached[key] = make()
        return cast(T, self._cached[key])

    def cache_folder(self, cache_dir: str | None) -> Path:
        """Return the root of the caches. A smoke run has its own."""
        return cache_root(cache_dir) / "fast_dev_run" if self.fast_dev_run else cache_root(cache_dir)

    def training_loader(self, dataset: Dataset, items: int | None) -> DataLoader:
        """Return a loader of the run's batches of ``dataset``, starting at the module's current step.

        Args:
            dataset: the training data.
            items: number of items, or None for an infinite dataset.

        Raises:
            InputError: the module has made all steps already, and is not resumed from a checkpoint.
        """
        rank, world_size = self._rank
        start = getattr(self.trainer.lightning_module, "step", 0) if self.trainer else 0
        if start >= self.plan.steps and self.trainer and not self.trainer.ckpt_path:
            raise InputError(
                f"the module has been trained for {start} steps, and the data's total_kimg is {self.plan.steps} steps, so "
                "nothing would be trained; increase total_kimg, or make a new module"
            )
        return self._loader(
            dataset, batch_sampler=StepBatchSampler(items, self.plan, self.seed, start, rank, world_size)
        )

    def evaluation_loader(self, dataset: Dataset, items: int) -> DataLoader:
        """Return a loader that yields every item once, in order, distributed over all ranks."""
        self._evaluation_sampler = EvaluationSampler(items, self.batch_size, *self._rank)
        return self._loader(dataset, batch_sampler=self._evaluation_sampler)

    def batch_slice(self, batch: int) -> tuple[int, slice]:
        """Return the size of an evaluation batch over all ranks, and the slice of it that this rank processes."""
        return self._evaluation_sampler.batch_slice(batch)

    def caches(self) -> list[RenderCache]:
        """Return the image caches that training and evaluation read; empty by default."""
        return []

    def check_data(self) -> None:
        """Find the data and check what can be checked without rendering or reading the files of shapes.

        Raises:
            InputError: data that are missing or cannot be used.
        """
        self.caches()

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """Return the module's loader of sample indices. Prediction generates samples and needs no data."""
        assert self.trainer is not None
        return self.trainer.lightning_module.predict_dataloader()

    def _loader(self, dataset: Dataset, **kwargs: Any) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            multiprocessing_context=WorkerContext() if self.num_workers else None,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Convert images, which are transferred as bytes, to floats in [0, 1] on the device."""
        return to_float(batch)


class ReferenceDataModule(RunDataModule):
    """A data module with reference images, which FID and KID compare with generated images.

    Attributes:
        reference_images: number of real and of generated images in an evaluation.
        channels: of the images: 1 or 3. Colour images are evaluated by an extractor that sees colour.
    """

    reference_images: int
    channels: int = 1
    _kid_subset: int | None = 0

    @property
    def kid_subset(self) -> int:
        """Number of images per KID subset; 0 for FID alone, the default for fewer than 4 images (a smoke run)."""
        if self._kid_subset is not None:
            return self._kid_subset
        half = min(1000, self.reference_images // 2)
        return half if half >= 2 else 0

    @property
    @abstractmethod
    def reference_key(self) -> str:
        """Hash of everything that the reference images depend on. Their statistics are cached under it."""

    @abstractmethod
    def reference(self) -> UInt8[Tensor, "N C H W"]:
        """Return the reference images."""

    def sample_images(self, count: int) -> tuple[UInt8[Tensor, "n C H W"], UInt8[Tensor, "m C H W"]] | None:
        """Return up to ``count`` training images and up to ``count`` held-out images; None if none are held out."""
        return None

    def val_dataloader(self) -> DataLoader:
        images = self.reference()
        return self.evaluation_loader(TensorDataset(images), len(images))


def to_float(batch: Any) -> Any:
    """Divide every uint8 tensor in a nested batch by 255."""
    if isinstance(batch, Tensor):
        return batch.float() / 255 if batch.dtype == torch.uint8 else batch
    if isinstance(batch, dict):
        return {key: to_float(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [to_float(value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)  # named tuples have fields
    return batch
