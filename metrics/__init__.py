"""Metrics of sets of images (FID, KID, precision, recall, density, coverage), their extractors, and metrics of shapes."""

from metrics.depth import measure_depth
from metrics.extractors import EXTRACTORS, FeatureExtractor, load_extractor
from metrics.fid import ImageFID, fid_between, to_bytes
from metrics.kid import KernelDistance, polynomial_mmd2
from metrics.manifolds import ManifoldMetrics
from metrics.point_clouds import (
    chamfer_matrix,
    compare_clouds,
    coverage,
    minimum_matching_distance,
    nearest_neighbor_accuracy,
    surface_clouds,
)
from metrics.shape_comparison import ShapeReference, compare_shapes
from metrics.shapes import (
    PackedGrids,
    iou_matrix,
    largest_piece,
    mean_occupancy,
    mean_pairwise_iou,
    nearest_training_iou,
)

__all__ = [
    "EXTRACTORS",
    "FeatureExtractor",
    "ImageFID",
    "KernelDistance",
    "ManifoldMetrics",
    "PackedGrids",
    "ShapeReference",
    "chamfer_matrix",
    "compare_clouds",
    "compare_shapes",
    "coverage",
    "fid_between",
    "iou_matrix",
    "largest_piece",
    "load_extractor",
    "mean_occupancy",
    "mean_pairwise_iou",
    "measure_depth",
    "minimum_matching_distance",
    "nearest_neighbor_accuracy",
    "nearest_training_iou",
    "polynomial_mmd2",
    "surface_clouds",
    "to_bytes",
]
