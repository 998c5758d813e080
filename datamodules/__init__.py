"""LightningDataModules, one per data source. The shapes that some of them render are in ``datamodules.shapes``."""

from datamodules.chanterelle import ChanterelleDataModule
from datamodules.ffhq import FFHQDataModule
from datamodules.renders.colored import ColoredRenderClassesDataModule
from datamodules.renders.labelled import ArchiveClassesDataModule, RenderClassesDataModule, ShapeNetClassesDataModule
from datamodules.renders.shapenet import ShapeNetRenderDataModule
from datamodules.synthetic_heads import HeadImages, HeadsDataModule
from datamodules.voxel_grids import ShapeDataModule

__all__ = [
    "ArchiveClassesDataModule",
    "ChanterelleDataModule",
    "ColoredRenderClassesDataModule",
    "FFHQDataModule",
    "HeadImages",
    "HeadsDataModule",
    "RenderClassesDataModule",
    "ShapeDataModule",
    "ShapeNetClassesDataModule",
    "ShapeNetRenderDataModule",
]
