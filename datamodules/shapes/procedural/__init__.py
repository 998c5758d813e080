"""Procedural shapes: chairs, couches, bathtubs, tables, random cubes, textured heads."""

from datamodules.shapes.procedural.source import ProceduralShapes

__all__ = ["ProceduralShapes"]
