"""A training run on disk: its directory, lock and checkpoints, and how it is resumed, loaded and ended."""
