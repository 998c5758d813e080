"""Volume renderers of voxels: visual hull, absorption, emission-absorption."""

from renderers.volume.renderer import AbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer

__all__ = ["AbsorptionRenderer", "EmissionAbsorptionRenderer", "VisualHullRenderer"]
