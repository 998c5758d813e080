"""Loggers: ``metrics.csv``, Weights & Biases, and a wrapper that keeps a failing logger from stopping training."""
