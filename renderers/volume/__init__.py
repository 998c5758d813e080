"""Volume renderers of voxels: visual hull, absorption, lit absorption, emission-absorption."""
