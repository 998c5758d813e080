"""Scenes, cameras, and every renderer behind one interface. See ``renderers.base`` for the conventions."""

from renderers.base import Renderer, Rendering, Scene
from renderers.cameras import Camera, ViewDistribution
from renderers.errors import InputError
from renderers.lighting import Lighting
from renderers.neural import NeuralRenderer
from renderers.opengl import OpenGLRenderer
from renderers.pool import RenderPool
from renderers.scenes import TriangleMesh, VoxelGrid
from renderers.soft_rasterizer import SoftRasterizer
from renderers.topology import sheet
from renderers.volume import AbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer

__all__ = [
    "AbsorptionRenderer",
    "Camera",
    "EmissionAbsorptionRenderer",
    "InputError",
    "Lighting",
    "NeuralRenderer",
    "OpenGLRenderer",
    "RenderPool",
    "Renderer",
    "Rendering",
    "Scene",
    "SoftRasterizer",
    "TriangleMesh",
    "ViewDistribution",
    "VisualHullRenderer",
    "VoxelGrid",
    "sheet",
]
