"""Network architectures, without training, data or Lightning."""

from networks.augmentation import AdaptiveAugment, DiffAugment
from networks.dcgan_discriminator import DCGANDiscriminator
from networks.dcgan_generator import DCGANGenerator
from networks.inception import InceptionV3
from networks.mesh_generator import GeneratedScene, MeshGenerator, sample_offsets
from networks.render_classifier import RenderClassifier
from networks.rendernet import RenderNet
from networks.shading_net import ShadingNet
from networks.stylegan_discriminator import StyleGANDiscriminator
from networks.stylegan_generator import StyleGANGenerator
from networks.voxel_generator import VoxelGenerator

__all__ = [
    "AdaptiveAugment",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DiffAugment",
    "GeneratedScene",
    "InceptionV3",
    "MeshGenerator",
    "RenderClassifier",
    "RenderNet",
    "ShadingNet",
    "StyleGANDiscriminator",
    "StyleGANGenerator",
    "VoxelGenerator",
    "sample_offsets",
]
