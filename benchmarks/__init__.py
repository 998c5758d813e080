"""Speed and memory: python -m benchmarks. Ratios of two things are taken in one run, for machines are noisy."""
