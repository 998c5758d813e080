"""The CPU backend of the soft rasterizer: numba kernels for all of it."""

from renderers.kernels.evaluate_numba import evaluate_fragments, project
from renderers.kernels.find_numba import find_fragments
from renderers.kernels.shade_numba import splat_attributes, splat_texture, vertex_normals

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]
