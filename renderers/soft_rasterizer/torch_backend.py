"""The plain-torch implementation as a backend: any device, any precision, and the measure of the other backends."""

from renderers.meshes.vertex_normals import vertex_normals
from renderers.soft_rasterizer.reference import evaluate_fragments, find_fragments, project
from renderers.soft_rasterizer.shading import splat_attributes, splat_texture

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]
