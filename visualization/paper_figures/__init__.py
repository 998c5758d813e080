"""The papers' figures of a generator's samples, and of the data in the same format."""

from lightning_modules.generative import GenerativeModule, VoxelGenerativeModule
from lightning_modules.meshgan import MeshGANModule
from renderers import InputError
from visualization.paper_figures.choice import Choice, Draw, UndrawableError
from visualization.paper_figures.data import DATA_FIGURES
from visualization.paper_figures.images import IMAGE_FIGURES
from visualization.paper_figures.meshes import MESH_FIGURES
from visualization.paper_figures.sheet import Figure, draw_figure, write_figure
from visualization.paper_figures.voxels import VOXEL_FIGURES

__all__ = [
    "DATA_FIGURES",
    "IMAGE_FIGURES",
    "MESH_FIGURES",
    "VOXEL_FIGURES",
    "Choice",
    "Draw",
    "Figure",
    "UndrawableError",
    "draw_figure",
    "figures_of",
    "write_figure",
]


def figures_of(module: object) -> dict[str, Draw]:
    """The figures of a module's samples, by name.

    Raises:
        InputError: a module that generates nothing.
    """
    kinds = ((MeshGANModule, MESH_FIGURES), (VoxelGenerativeModule, VOXEL_FIGURES), (GenerativeModule, IMAGE_FIGURES))
    for kind, figures in kinds:
        if isinstance(module, kind):
            return figures
    raise InputError(f"{type(module).__name__} generates nothing that figures could show")
