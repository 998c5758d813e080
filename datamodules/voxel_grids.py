"""Batches of voxel grids, for pre-training the neural renderer."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import RunDataModule
from datamodules.shapes import ShapeSource
from utils.errors import check_number


class VoxelGridDataset(Dataset):
    """Occupancy grids of a shape source as bytes ``(1, D, D, D)``, 0 or 255."""

    def __init__(self, shapes: ShapeSource) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return ((self.shapes[index].voxels.occupancy[0] * 255).byte(),)


class ShapeDataModule(RunDataModule):
    """Voxel grids of a shape source. Batches are ``[occupancy (B, 1, D, D, D)]``, floats in [0, 1] on the device.

    Args:
        shapes: training shapes; for the neural renderer tables, chairs or random cubes (supplement, table 3).
        validation_shapes: held-out shapes.
        validation_count: number of held-out shapes per validation.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of grids.
        num_workers: number of processes that generate the grids.
        seed: seed of the order.
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
        check_number("validation_count", validation_count, at_least=1)
        self.shapes, self.validation_shapes = shapes, validation_shapes
        self.validation_count = min(validation_count, len(validation_shapes))

    def train_dataloader(self) -> DataLoader:
        return self.training_loader(VoxelGridDataset(self.shapes), len(self.shapes))

    def val_dataloader(self) -> DataLoader:
        return self.evaluation_loader(VoxelGridDataset(self.validation_shapes), self.validation_count)
