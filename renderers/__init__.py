"""Scenes, cameras and renderers with a common interface, :class:`renderers.base.Renderer`."""

from renderers.base import Renderer, Rendering, Scene
from renderers.cameras import Camera, ViewDistribution
from renderers.deferred import DeferredNeuralRenderer
from renderers.lighting import Lighting
from renderers.meshes.grid_mesh import grid_mesh
from renderers.neural import NeuralRenderer
from renderers.opengl.renderer import OpenGLRenderer
from renderers.scenes import TriangleMesh, VoxelGrid
from renderers.soft_rasterizer.renderer import SoftRasterizer
from renderers.volume.lit import LitAbsorptionRenderer
from renderers.volume.renderer import AbsorptionRenderer, EmissionAbsorptionRenderer, VisualHullRenderer
from utils.errors import InputError

__all__ = [
    "AbsorptionRenderer",
    "Camera",
    "DeferredNeuralRenderer",
    "EmissionAbsorptionRenderer",
    "InputError",
    "Lighting",
    "LitAbsorptionRenderer",
    "NeuralRenderer",
    "OpenGLRenderer",
    "Renderer",
    "Rendering",
    "Scene",
    "SoftRasterizer",
    "TriangleMesh",
    "ViewDistribution",
    "VisualHullRenderer",
    "VoxelGrid",
    "grid_mesh",
]
