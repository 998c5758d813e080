"""Draws voxel grids in a fragment shader by casting rays through them, without triangles."""
