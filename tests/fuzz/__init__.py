"""Fuzzing of every parser in the project with truncated, modified and random files."""
