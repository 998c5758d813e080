"""Batches of voxel grids, to pre-train the neural renderer on."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import RunDataModule
from datamodules.shapes import ShapeSource


class Grids(Dataset):
    """Occupancy of a shape source as bytes ``(1, D, D, D)``, 0 or 255."""

    def __init__(self, shapes: ShapeSource) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return ((self.shapes[index].voxels.occupancy[0] * 255).byte(),)


class ShapeDataModule(RunDataModule):
    """Voxel grids of a shape source. Batches are ``[occupancy (B, 1, D, D, D)]``, floats in [0, 1] on the device.

    Args:
        shapes: for training; for the proxy tables, chairs or random cubes (supplement, table 3).
        validation_shapes: held out.
        validation_count: how many of these a validation uses.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of grids.
        num_workers: processes that make the grids.
        seed: of the order.
    """

    def __init__(
        self,
        shapes: ShapeSource,
        validation_shapes: ShapeSource,
        validation_count: int = 256,
        batch_size: int = 32,
        total_kimg: float = 100,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        self.shapes, self.validation_shapes = shapes, validation_shapes
        self.validation_count = min(validation_count, len(validation_shapes))

    def train_dataloader(self) -> DataLoader:
        return self.stream(Grids(self.shapes), len(self.shapes))

    def val_dataloader(self) -> DataLoader:
        return self.share(Grids(self.validation_shapes), self.validation_count)

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()
