"""Loggers: ``metrics.csv``, Weights & Biases, and a guard that keeps a failing logger from stopping a run."""
