"""Domain-independent helpers: errors, files, progress, process groups, signals. Imports nothing else of this project."""
