"""Data modules of rendered shapes, and the cache that keeps the renders on disk."""
