"""Mesh files: one reader for OBJ, OFF, PLY, STL, glTF and GLB, for every command and dataset.

It reads triangles and their colours as other programs show them, and refuses by name what it cannot read correctly.
"""

from renderers.mesh_files.reader import SUFFIXES, MeshFile, read_mesh

__all__ = ["SUFFIXES", "MeshFile", "read_mesh"]
