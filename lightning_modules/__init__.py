"""One LightningModule per method: its losses and the order of its optimizer steps."""

from lightning_modules.iggan import IGGANModule
from lightning_modules.image_gan import ImageGANModule
from lightning_modules.meshgan import MeshGANModule
from lightning_modules.neural_renderer import NeuralRendererModule
from lightning_modules.progressive_growing import GrowthPhase
from lightning_modules.render_classifier import RenderClassifierModule
from lightning_modules.voxel_gan import VoxelGANModule

__all__ = [
    "GrowthPhase",
    "IGGANModule",
    "ImageGANModule",
    "MeshGANModule",
    "NeuralRendererModule",
    "RenderClassifierModule",
    "VoxelGANModule",
]
