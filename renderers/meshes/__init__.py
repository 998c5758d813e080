"""Mesh operations: marching cubes, MeshGAN's grid mesh, vertex normals."""
