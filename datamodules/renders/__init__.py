"""Data modules of rendered shapes, and the on-disk cache of the renders."""
