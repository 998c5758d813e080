"""One LightningModule a method: its losses and the order of its updates."""

from lightning_modules.iggan import IGGANModule
from lightning_modules.neural_renderer import NeuralRendererModule
from lightning_modules.render_classifier import RenderClassifierModule

__all__ = ["IGGANModule", "NeuralRendererModule", "RenderClassifierModule"]
