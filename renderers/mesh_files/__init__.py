"""Mesh files: one reader for OBJ, OFF, PLY, STL, glTF and GLB, for every command and dataset.

Triangles and colours are read as other programs display them. A file that cannot be read correctly raises an error that
names the feature.
"""

from renderers.mesh_files.gltf_accessors import buffer_files
from renderers.mesh_files.reader import SUFFIXES, MeshFile, read_mesh

__all__ = ["SUFFIXES", "MeshFile", "buffer_files", "read_mesh"]
