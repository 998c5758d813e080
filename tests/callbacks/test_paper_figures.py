"""Figures show what their captions and labels state."""

import copy

import numpy as np
import pytest
import torch
from small_iggan import VIEWS, iggan, renders

from datamodules import ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from lightning_modules import ImageGANModule, MeshGANModule, VoxelGANModule
from networks import DCGANDiscriminator, DCGANGenerator, MeshGenerator, StyleGANDiscriminator, VoxelGenerator
from renderers import (
    Camera,
    EmissionAbsorptionRenderer,
    InputError,
    OpenGLRenderer,
    SoftRasterizer,
    TriangleMesh,
    ViewDistribution,
)
from trainer.cli.arguments import FIGURES
from visualization.paper_figures import (
    DATA_FIGURES,
    MESH_FIGURES,
    VOXEL_FIGURES,
    Figure,
    FigureOptions,
    FigureUnavailableError,
    render_figure,
)
from visualization.paper_figures import figures_of as figures
from visualization.paper_figures.options import center_crop, slerp

OPTIONS = FigureOptions(rows=2, columns=3, numbers=(1, 4))


@pytest.fixture(scope="module")
def meshgan() -> MeshGANModule:
    torch.manual_seed(0)
    narrow = {"channel_base": 64, "channel_max": 8}
    module = MeshGANModule(
        MeshGenerator(16, latent_size=8, style_size=8, mapping_layers=2, **narrow),
        StyleGANDiscriminator(16, **narrow),
        SoftRasterizer(16),
        ViewDistribution((-45, 45), (-15, 15), fov=10),
    )
    for p in module.generator_ema.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return module


def mesh_of(module: MeshGANModule, number: int) -> TriangleMesh:
    sample = module.predict_step(torch.tensor([number]), 0)
    return TriangleMesh(sample["vertices"], sample["faces"], sample["uvs"], sample["texture"])


def test_help_lists_all_figures(meshgan):
    assert FIGURES["MeshGAN"] == tuple(MESH_FIGURES) == tuple(figures(meshgan))
    assert FIGURES["voxels"] == tuple(VOXEL_FIGURES) == tuple(figures(iggan()))
    assert FIGURES["the data"] == tuple(DATA_FIGURES)
    assert FIGURES["images"] == tuple(figures(image_gan()))
    with pytest.raises(InputError, match="Linear has no generator"):
        figures(torch.nn.Linear(1, 1))


def test_coloured_shapes_of_the_data_are_shown_in_colour():
    shapes, renderer = (
        ProceduralShapes("chair", 2, 16, colored=True),
        OpenGLRenderer(16, backend="moderngl", colored=True),
    )
    data = ShapeNetRenderDataModule(shapes, renderer, ViewDistribution(), reference_images=2)
    (row,) = DATA_FIGURES["data"](data, FigureOptions(rows=1, columns=2)).images
    assert all((image.amax(0) - image.amin(0)).max() > 0.1 for image in row)


def test_meshgan_samples_equal_predicted_samples(meshgan):
    figure = figures(meshgan)["samples"](meshgan, OPTIONS)
    assert figure.columns == ("render", "normals", "texture", "background", "−90°", "−45°", "0°", "45°", "90°")
    assert figure.rows == ("1", "4") and "as picked" in figure.caption and "psi 0.7" in figure.caption
    sample = meshgan.predict_step(torch.tensor([4]), 0)
    for shown, name in zip(figure.images[1], ("image", "normal_map", "texture", "background"), strict=False):
        assert torch.allclose(shown, sample[name][0], atol=1e-5)
    side = meshgan.render(mesh_of(meshgan, 4), Camera.orbit(45.0, 0.0, 10), torch.ones(1, 3, 16, 16)).image[0]
    assert torch.allclose(figure.images[1][7], side, atol=1e-5)


def test_random_samples_are_the_first_ones(meshgan):
    figure = figures(meshgan)["random"](meshgan, OPTIONS)
    alone = figures(meshgan)["samples"](meshgan, FigureOptions(numbers=(0, 1, 2, 3)))
    assert [len(row) for row in figure.images] == [18, 18]
    shown, expected = ([x for row in f.images for x in row] for f in (figure, alone))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(shown, expected, strict=True))


def test_meshgan_interpolation_starts_and_ends_at_samples(meshgan):
    figure = figures(meshgan)["interpolation"](meshgan, FigureOptions(rows=3, columns=6, numbers=(1, 4, 2)))
    assert figure.columns == 2 * ("−45°", "0°", "45°") and len(figure.images) == 3
    for row, column, number in ((0, 1, 1), (2, 1, 4), (0, 4, 4), (2, 4, 2)):
        front = meshgan.render(mesh_of(meshgan, number), Camera.orbit(0.0, 0.0, 10), torch.ones(1, 3, 16, 16)).image[0]
        assert torch.allclose(figure.images[row][column], front, atol=1e-5)
    with pytest.raises(FigureUnavailableError, match="at least two sample numbers"):
        figures(meshgan)["interpolation"](meshgan, FigureOptions(numbers=(1,)))


def test_truncation_reaches_the_mean_style(meshgan):
    meshgan.truncation_cutoff = None
    figure = figures(meshgan)["truncation"](meshgan, FigureOptions(numbers=(1, 4), psis=(1, 0, -0.5)))
    assert figure.columns == ("ψ = 1", "ψ = 0", "ψ = −0.5") and "all layers" in figure.caption
    first, second = figure.images
    assert torch.allclose(first[1], second[1], atol=1e-5)
    assert not torch.allclose(first[0], second[0], atol=1e-2)
    meshgan.truncation_cutoff = 8


def test_layers_blend_to_the_rendered_image(meshgan):
    figure = MESH_FIGURES["layers"](meshgan, OPTIONS)
    assert figure.columns == ("crisp", "soft", "soft alpha", "blended", "on background")
    mesh, front, white = mesh_of(meshgan, 4), Camera.orbit(0.0, 0.0, 10), torch.ones(1, 3, 16, 16)
    crisp, soft, alpha, blended, on_background = figure.images[1]
    assert torch.allclose(blended, meshgan.render(mesh, front, white).image[0], atol=1e-5)
    assert torch.allclose(crisp, SoftRasterizer(16, margin=0)(mesh, front, white).image[0], atol=1e-5)
    # Eq. 12: the soft layer on white is alpha_s a_s + (1 - alpha_s), the blend puts the crisp layer in place of the white.
    assert torch.allclose(blended, soft - (1 - alpha) * (1 - crisp), atol=1e-5)
    covered = SoftRasterizer(16, margin=0)(mesh, front, white).alpha[0] == 1
    assert (alpha[covered] == 0).any() and (alpha[~covered] > 0).any() and float(alpha.max()) <= 1
    background = meshgan.predict_step(torch.tensor([4]), 0)["background"][:, :, 8:24, 8:24]  # the centre crop
    assert torch.allclose(on_background, meshgan.render(mesh, front, background).image[0], atol=1e-5)
    hard = copy.copy(meshgan)
    hard.renderer = SoftRasterizer(16, margin=0)
    with pytest.raises(FigureUnavailableError, match="no soft layer"):
        MESH_FIGURES["layers"](hard, OPTIONS)


def test_azimuth_and_elevation_fix_the_viewpoint_of_grids():
    module, fixed = iggan(), FigureOptions(2, 3, azimuth=30, elevation=-10)
    for name in ("samples", "normals"):
        figure = VOXEL_FIGURES[name](module, fixed)
        assert figure.rows == ("30°\n−10°",) * 2 and "all from azimuth 30°, elevation -10°" in figure.caption
        rendering = module.render(module.shapes(module.sample_latents(torch.tensor([4]))), Camera.orbit([30.0], -10.0))
        expected = rendering.image if name == "samples" else rendering.normal_map()
        assert torch.allclose(figure.images[1][1], expected[0], atol=1e-5)
    assert "from -10° elevation" in VOXEL_FIGURES["views"](module, fixed).caption
    assert DATA_FIGURES["data"](renders(), fixed).rows == ("30°\n−10°",) * 2
    half = VOXEL_FIGURES["samples"](module, FigureOptions(2, 3, azimuth=30))
    views = VIEWS.sample(2, torch.Generator().manual_seed(0))
    assert half.rows == tuple(f"30°\n{e:.0f}°".replace("-", "−") for e in views.elevation)
    assert "one viewpoint (azimuth, elevation) per row" in half.caption


def test_voxel_grids_have_one_viewpoint_per_row():
    module = iggan()
    shown = {name: figure(module, OPTIONS) for name, figure in figures(module).items()}
    assert [len(shown[name].images[0]) for name in VOXEL_FIGURES] == [3, 3, 3, 3, 6, 3]
    views = VIEWS.sample(2, torch.Generator().manual_seed(0))
    expected = tuple(
        f"{a:.0f}°\n{e:.0f}°".replace("-", "−") for a, e in zip(views.azimuth, views.elevation, strict=True)
    )
    assert shown["samples"].rows == shown["normals"].rows == expected
    z = module.sample_latents(torch.tensor([4]))
    rendering = module.render(module.shapes(z), views[1:2])
    assert torch.allclose(shown["samples"].images[1][1], rendering.image[0], atol=1e-5)
    assert torch.allclose(shown["normals"].images[1][1], rendering.normal_map()[0], atol=1e-5)
    assert shown["views"].columns == ("0°", "120°", "240°") and "from 15° elevation" in shown["views"].caption
    other_views = ViewDistribution((10, 10), (20, 20))
    assert VOXEL_FIGURES["samples"](module, FigureOptions(2, 2, views=other_views)).rows == ("10°\n20°", "10°\n20°")


def test_thresholds_start_with_the_continuous_sample():
    module = iggan()
    figure = VOXEL_FIGURES["thresholds"](module, OPTIONS)
    assert figure.columns == ("neural", "> 0.1", "> 0.3", "> 0.5", "> 0.7", "> 0.9")
    camera = VIEWS.sample(2, torch.Generator().manual_seed(0))
    shapes = module.shapes(module.sample_latents(torch.tensor([1, 4])))
    assert torch.allclose(figure.images[1][0], module.neural_renderer(shapes, camera).image[1], atol=1e-5)
    assert torch.equal(figure.images[1][3], module.render(shapes, camera).image[1])


def test_coloured_volumes_have_no_normals():
    renderer = EmissionAbsorptionRenderer(16)
    generator = VoxelGenerator(8, latent_size=8, width=16, out_channels=4)
    module = VoxelGANModule(generator, DCGANDiscriminator(16, 3, width=8), renderer, renderer, VIEWS)
    assert VOXEL_FIGURES["views"](module, OPTIONS).images[0][0].shape == (3, 16, 16)
    for name in ("normals", "view_normals"):
        with pytest.raises(FigureUnavailableError, match="EmissionAbsorptionRenderer renders no normals"):
            VOXEL_FIGURES[name](module, OPTIONS)


def image_gan() -> ImageGANModule:
    torch.manual_seed(0)
    return ImageGANModule(DCGANGenerator(16, latent_size=8, width=8), DCGANDiscriminator(16, width=8))


def test_image_generators_show_images():
    module = image_gan()
    module.measure_batch_norm(1, 8)
    grid, between = (figures(module)[name](module, OPTIONS) for name in ("samples", "interpolation"))
    assert len(grid.images) == 2 and len(between.images) == 1
    assert torch.allclose(grid.images[1][1], between.images[0][-1], atol=1e-5)  # sample 4


def test_data_figures_have_the_format_of_samples():
    data = renders()
    grey, normals = (figure(data, FigureOptions(2, 3)) for figure in DATA_FIGURES.values())
    camera = VIEWS.sample(2, torch.Generator().manual_seed(0))
    rendering = data.renderer(data.reference_shapes[5].voxels, camera[1:])  # 8 shapes for 6 images: 0 1 2 4 5 6
    assert torch.allclose(grey.images[1][2], data.renderer(data.reference_shapes[6].voxels, camera[1:]).image[0])
    assert torch.allclose(normals.images[1][1], rendering.normal_map()[0])
    assert grey.rows == VOXEL_FIGURES["samples"](iggan(), FigureOptions(2, 3)).rows


def test_figure_places_images_on_white():
    colours = [[torch.full((3, 8, 8), 0.2), torch.rand(1, 4, 4)], [torch.zeros(1, 3, 3), torch.ones(3, 8, 8)]]
    figure = Figure("f", colours, ("left", "right"), ("1", "−30°\n5°"), blocks=(1,))
    page = np.asarray(render_figure(figure, 24))
    assert np.array_equal(page, np.asarray(render_figure(figure, 24)))
    unlabelled = np.asarray(render_figure(Figure("f", colours), 24))
    assert unlabelled.shape == (50, 50, 3)
    assert (unlabelled[:24, :24] == 51).all() and (unlabelled[26:, :24] == 0).all() and (unlabelled[24:26] == 255).all()
    assert np.array_equal(unlabelled[0:24:6, 26:50:6, 0], (colours[0][1][0] * 255).round().numpy())
    assert (page[0, 0] == 255).all() and page.shape[0] > 50 and page.shape[1] > 54


def test_zoom_keeps_the_centre():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(center_crop(image, 1), image)
    assert torch.equal(center_crop(image, 2), image[..., 2:6, 2:6])
    assert center_crop(image, 1e9).shape == (1, 1, 2, 2)


def test_slerp_preserves_length():
    a, b = torch.tensor([3.0, 0]), torch.tensor([0, 3.0])
    path = slerp(a, b, 5)
    assert torch.allclose(path.norm(dim=1), torch.tensor(3.0)) and torch.allclose(path[[0, -1]], torch.stack([a, b]))
    assert torch.allclose(slerp(a, a, 3), a.expand(3, 2))
