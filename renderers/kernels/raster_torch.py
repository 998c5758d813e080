"""The plain-torch implementation as a backend: any device, any precision, and the measure of the other backends."""

from renderers.fragment_shading import splat_attributes, splat_texture
from renderers.soft_rasterizer_reference import evaluate_fragments, find_fragments, project
from renderers.vertex_normals import vertex_normals

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]
