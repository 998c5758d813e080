"""``invert`` for MeshGAN: styles instead of latents, and the soft rasterizer."""

import pytest
import torch

from lightning_modules import MeshGANModule
from networks import MeshGenerator, StyleGANDiscriminator
from renderers import Camera, InputError, SoftRasterizer, ViewDistribution
from trainer.inversion.models import InvertibleMeshes, invertible
from trainer.inversion.optimization import Targets, optimize
from trainer.inversion.starts import StartBank

TINY = {"channel_base": 64, "channel_max": 8}


@pytest.fixture(scope="module")
def module() -> MeshGANModule:
    torch.manual_seed(0)
    module = MeshGANModule(
        MeshGenerator(16, latent_size=8, style_size=8, mapping_layers=2, **TINY),
        StyleGANDiscriminator(16, **TINY),
        SoftRasterizer(16),
        ViewDistribution((-45, 45), (-15, 15), fov=10),
    )
    for p in module.generator.parameters():
        p.data += 0.1 * torch.randn_like(p)
    module.generator_ema.load_state_dict(module.generator.state_dict())
    return module.eval().requires_grad_(False)


def test_styles_give_the_scene_of_their_latents(module):
    z = torch.randn(3, module.latent_size, generator=torch.Generator().manual_seed(1))
    generator = module.generator_ema
    direct = generator(z, 16, noise="fixed", crossover=(99, 99))
    by_style = generator.from_styles(generator.map_styles(z), 16)
    assert torch.equal(direct.mesh.vertices, by_style.mesh.vertices)
    assert torch.equal(direct.mesh.texture, by_style.mesh.texture)
    assert torch.equal(direct.background, by_style.background)


def test_gradients_reach_styles_and_angles(module):
    model = InvertibleMeshes(module)
    w = model.sample(2, torch.Generator().manual_seed(2)).requires_grad_()
    camera = Camera(torch.tensor([10.0, -20.0], requires_grad=True), torch.tensor([5.0, 0.0], requires_grad=True), 10)
    (model.render(w, camera).image[:, :, 4:12, :9]).sum().backward()
    assert w.grad.abs().sum(1).min() > 0
    assert camera.azimuth.grad.abs().min() > 0 and camera.elevation.grad.abs().min() > 0


def test_an_image_of_the_generator_is_approached(module):
    model = InvertibleMeshes(module)
    w = model.sample(2, torch.Generator().manual_seed(3))
    camera = Camera.orbit([20.0, -30.0], [5.0, -5.0], fov=10)
    rendering = model.verify(w, camera)
    targets = Targets(rendering.image, rendering.alpha, torch.zeros(2))
    starts = StartBank.generate(model, 8, 2).nearest(targets)
    assert starts.azimuth[:, 0].max() <= 0 <= starts.azimuth[:, 1].min()
    _, before, _ = optimize(model, targets, starts, 0)
    found, error, _ = optimize(model, targets, starts, 30)
    assert (error < 0.7 * before).all()
    assert found.azimuth.abs().max() <= 45 and found.elevation.abs().max() <= 15


def test_styles_far_from_the_mean_are_penalized(module):
    model = InvertibleMeshes(module)
    assert model.penalty(model.mean[None]).item() == 0
    assert model.penalty(model.mean[None] + 3 * model.deviation).item() > 0


def test_a_renderer_for_voxels_is_rejected(module):
    with pytest.raises(InputError, match="is for voxels"):
        invertible(module, "lit")
