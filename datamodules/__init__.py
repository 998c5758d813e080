"""One LightningDataModule a data source; the shapes that some of them draw are in ``datamodules.shapes``."""

from datamodules.chanterelle import ChanterelleDataModule
from datamodules.ffhq import FFHQDataModule
from datamodules.heads import HeadPictures, HeadsDataModule
from datamodules.render_classes import ArchiveClassesDataModule, RenderClassesDataModule, ShapeNetClassesDataModule
from datamodules.renders import ShapeNetRenderDataModule
from datamodules.shape_batches import ShapeDataModule

__all__ = [
    "ArchiveClassesDataModule",
    "ChanterelleDataModule",
    "FFHQDataModule",
    "HeadPictures",
    "HeadsDataModule",
    "RenderClassesDataModule",
    "ShapeDataModule",
    "ShapeNetClassesDataModule",
    "ShapeNetRenderDataModule",
]
