"""Export of scenes: samples as 3D files, turntable videos, and scenes read from files."""
