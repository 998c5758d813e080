"""One LightningModule a method: its losses and the order of its updates."""

from lightning_modules.iggan import IGGANModule
from lightning_modules.image_gan import ImageGANModule
from lightning_modules.neural_renderer import NeuralRendererModule
from lightning_modules.render_classifier import RenderClassifierModule
from lightning_modules.voxel_gan import VoxelGANModule

__all__ = ["IGGANModule", "ImageGANModule", "NeuralRendererModule", "RenderClassifierModule", "VoxelGANModule"]
