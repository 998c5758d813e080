"""The plain-torch backend, for any device and precision; the other backends are tested against it."""

from renderers.meshes.vertex_normals import vertex_normals
from renderers.soft_rasterizer.reference import evaluate_fragments, find_fragments, project
from renderers.soft_rasterizer.shading import splat_attributes, splat_texture

__all__ = ["evaluate_fragments", "find_fragments", "project", "splat_attributes", "splat_texture", "vertex_normals"]
