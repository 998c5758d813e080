"""The papers' figures, of a generator's samples and of the data in the same format."""

from lightning_modules.generative import GenerativeModule
from lightning_modules.meshgan import MeshGANModule
from lightning_modules.voxel_generative import VoxelGenerativeModule
from renderers import InputError
from visualization.paper_figures.data import DATA_FIGURES
from visualization.paper_figures.images import IMAGE_FIGURES
from visualization.paper_figures.layout import Figure, render_figure, write_figure
from visualization.paper_figures.meshes import MESH_FIGURES
from visualization.paper_figures.options import FigureFunction, FigureOptions, FigureUnavailableError
from visualization.paper_figures.voxels import VOXEL_FIGURES

__all__ = [
    "DATA_FIGURES",
    "IMAGE_FIGURES",
    "MESH_FIGURES",
    "VOXEL_FIGURES",
    "Figure",
    "FigureFunction",
    "FigureOptions",
    "FigureUnavailableError",
    "figures_of",
    "render_figure",
    "write_figure",
]


def figures_of(module: object) -> dict[str, FigureFunction]:
    """Return the figures of a module's samples by name.

    Raises:
        InputError: a module without a generator.
    """
    kinds = ((MeshGANModule, MESH_FIGURES), (VoxelGenerativeModule, VOXEL_FIGURES), (GenerativeModule, IMAGE_FIGURES))
    for kind, figures in kinds:
        if isinstance(module, kind):
            return figures
    raise InputError(f"{type(module).__name__} has no generator, so there are no figures; choose the run of a GAN")
