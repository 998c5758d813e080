"""A run on disk: its directory, lock, checkpoints, resume, loading and shutdown."""
