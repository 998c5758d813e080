"""Distances between sets of pictures, with the networks that they rest on, and measures of sets of shapes."""

from metrics.extractors import EXTRACTORS, FeatureExtractor, load_extractor
from metrics.fid import PictureFID, fid_between, to_bytes
from metrics.shapes import mean_occupancy, mean_pairwise_iou

__all__ = [
    "EXTRACTORS",
    "FeatureExtractor",
    "PictureFID",
    "fid_between",
    "load_extractor",
    "mean_occupancy",
    "mean_pairwise_iou",
    "to_bytes",
]
