"""Writing samples as 3D files and videos, and reading scenes from files."""
