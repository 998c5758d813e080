"""The CPU backend of the soft rasterizer: numba kernels for all steps."""

from renderers.soft_rasterizer.numba_coverage import find_fragments
from renderers.soft_rasterizer.numba_interpolation import evaluate_fragments, project
from renderers.soft_rasterizer.numba_shading import splat_attributes, splat_texture, vertex_normals

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]
