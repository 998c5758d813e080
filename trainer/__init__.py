"""``python -m trainer``: the command line, nothing else."""
