"""Speed and memory: python -m benchmarks. Ratios compare measurements of one run, because machines are noisy."""
