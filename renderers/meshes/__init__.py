"""Meshes: marching cubes, the grid mesh of MeshGAN, vertex normals."""
