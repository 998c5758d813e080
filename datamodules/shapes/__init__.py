"""Shape sources: procedural shapes, ShapeNet, folders of meshes, voxel archives. Each returns :class:`Shape` objects."""

from datamodules.shapes.archive import VoxelArchive, archive_classes, write_archive
from datamodules.shapes.base import Shape, ShapeSource, Split, in_split, to_voxel_grid
from datamodules.shapes.corrupted import CorruptedShapes
from datamodules.shapes.folder import ShapeFolder
from datamodules.shapes.merged import MergedShapes
from datamodules.shapes.procedural.source import ProceduralShapes
from datamodules.shapes.processing.binvox import Binvox, read_binvox, write_binvox
from datamodules.shapes.processing.resample import fit_to_cube, resample
from datamodules.shapes.processing.voxelize import normalize, voxelize
from datamodules.shapes.shapenet import ShapeNetShapes

__all__ = [
    "Binvox",
    "CorruptedShapes",
    "MergedShapes",
    "ProceduralShapes",
    "Shape",
    "ShapeFolder",
    "ShapeNetShapes",
    "ShapeSource",
    "Split",
    "VoxelArchive",
    "archive_classes",
    "fit_to_cube",
    "in_split",
    "normalize",
    "read_binvox",
    "resample",
    "to_voxel_grid",
    "voxelize",
    "write_archive",
    "write_binvox",
]
