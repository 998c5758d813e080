import pytest
import torch

from callbacks.shape_export import write_sample
from datamodules import ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from renderers import OpenGLRenderer, ViewDistribution
from renderers.mesh_files import read_mesh


def test_colors_do_not_change_the_shapes():
    colored, white = (ProceduralShapes("chair", 6, 16, colored=c) for c in (True, False))
    assert colored.cache_key() != white.cache_key()
    for i in range(6):
        voxels = colored[i].voxels
        assert torch.equal(voxels.occupancy, white[i].voxels.occupancy) and white[i].voxels.color is None
        assert voxels.color.shape == (1, 3, 16, 16, 16)
        assert torch.equal(voxels.color, colored[i].voxels.color)


def test_parts_on_the_ground_differ_from_the_others():
    for shape in ProceduralShapes("chair", 6, 32, colored=True):
        solid, color = shape.voxels.occupancy[0, 0] > 0, shape.voxels.color[0].permute(1, 2, 3, 0)
        palette = color[solid].unique(dim=0)
        assert len(palette) == 2 and palette.amax(1).min() >= 0.5
        lowest, highest = solid.any(0).any(-1).nonzero()[[0, -1], 0]  # rows of y
        assert len(color[:, lowest][solid[:, lowest]].unique(dim=0)) == 1
        assert (color[:, highest][solid[:, highest]] != color[:, lowest][solid[:, lowest]][0]).any()


def test_exported_vertices_have_the_color_of_their_voxel(tmp_path):
    shape = ProceduralShapes("chair", 1, 32, colored=True)[0].voxels
    samples = {"occupancy": shape.occupancy, "color": shape.color}
    write_sample(samples, 0, 0.5, tmp_path / "chair", ("glb",))
    colors = torch.from_numpy(read_mesh(tmp_path / "chair.glb").colors)
    palette = shape.color[0].flatten(1).T.unique(dim=0)
    nearest = (colors[:, None] - palette).abs().amax(-1).amin(1)
    assert nearest.max() < 0.01 and len(colors.mul(50).round().unique(dim=0)) >= 2


@pytest.mark.parametrize(("colored", "channels"), [(True, 3), (False, 1)])
def test_data_state_their_channels(colored, channels):
    shapes, renderer = ProceduralShapes("chair", 1, 16, colored=colored), OpenGLRenderer(16, colored=colored)
    assert ShapeNetRenderDataModule(shapes, renderer, ViewDistribution()).channels == channels
