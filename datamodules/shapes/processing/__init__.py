"""Operations on shapes: binvox files, voxelization, resampling, connected components."""
