"""Processing of shapes: binvox files, voxelization, resampling, connected components."""
