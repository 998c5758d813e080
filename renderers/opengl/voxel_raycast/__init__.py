"""Renders voxel grids by casting rays through them in a fragment shader, without triangles."""
