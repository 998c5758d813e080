"""Plain networks: no training, no data, no Lightning."""

from networks.dcgan import DCGANDiscriminator
from networks.dcgan_generator import DCGANGenerator
from networks.inception import InceptionV3
from networks.render_classifier import RenderClassifier
from networks.rendernet import RenderNet
from networks.voxel_generator import VoxelGenerator

__all__ = ["DCGANDiscriminator", "DCGANGenerator", "InceptionV3", "RenderClassifier", "RenderNet", "VoxelGenerator"]
