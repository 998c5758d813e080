"""Helpers without a domain: errors, files, progress, process groups, signals. Imports nothing else of this project."""
