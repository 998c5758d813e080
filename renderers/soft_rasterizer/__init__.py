"""The differentiable rasterizer of MeshGAN (sections 5 and 6): a plain-torch reference, numba and Triton kernels."""

from renderers.soft_rasterizer.layers import Layers, render_layers
from renderers.soft_rasterizer.renderer import SoftRasterizer

__all__ = ["Layers", "SoftRasterizer", "render_layers"]
