import copy

import pytest
import torch
from small_iggan import VIEWS, StopAt, proxy, renders, trainer

from lightning_modules import VoxelGANModule
from lightning_modules.base import seeded_generator
from networks import DCGANDiscriminator, VoxelGenerator
from renderers import (
    AbsorptionRenderer,
    EmissionAbsorptionRenderer,
    InputError,
    OpenGLRenderer,
    SoftRasterizer,
    ViewDistribution,
    VisualHullRenderer,
    VoxelGrid,
)

SOFTPLUS = torch.nn.functional.softplus


def voxel_gan(renderer=None, out_channels=1, channels=1, **options) -> VoxelGANModule:
    torch.manual_seed(0)
    return VoxelGANModule(
        generator=VoxelGenerator(8, latent_size=8, width=16, out_channels=out_channels),
        discriminator=DCGANDiscriminator(16, channels=channels, width=8),
        renderer=OpenGLRenderer(16),
        differentiable_renderer=renderer or AbsorptionRenderer(16),
        views=VIEWS,
        **options,
    )


@pytest.mark.parametrize(
    ("renderer", "out_channels"),
    [(VisualHullRenderer(16), 1), (AbsorptionRenderer(16), 1), (EmissionAbsorptionRenderer(16), 2)],
)
def test_training_step_matches_reference(tmp_path, renderer, out_channels):
    """Losses and all weights after one step equal those of the same two updates written out."""
    module = voxel_gan(renderer, out_channels)
    reference = copy.deepcopy(module)
    run = trainer(tmp_path)
    run.fit(module, renders(steps=1))

    real = next(iter(renders(steps=1).train_dataloader()))[0].float() / 255
    z = torch.randn(4, 8, generator=seeded_generator(0, 0, "latents"))
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    g, d = reference.generator, reference.discriminator
    g_step = torch.optim.Adam(g.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_step = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))

    volume = g(z)
    color = volume[:, 1:] if out_channels > 1 else None
    fake = renderer(VoxelGrid(volume[:, :1], color), views).image
    logits = d(torch.cat([real, fake.detach()]))
    d_loss = SOFTPLUS(-logits[:4]).mean() + SOFTPLUS(logits[4:]).mean()
    d_loss.backward()
    d_step.step()
    d.eval()
    g_loss = SOFTPLUS(-d(fake)).mean()
    for p, gradient in zip(g.parameters(), torch.autograd.grad(g_loss, list(g.parameters())), strict=True):
        p.grad = gradient
    g_step.step()

    logged = {k: float(v) for k, v in run.callback_metrics.items()}
    assert logged["d"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert logged["g"] == pytest.approx(g_loss.item(), rel=1e-5)
    assert logged["occupancy_train"] == pytest.approx(volume[:, 0].mean().item(), rel=1e-5)
    for ours, theirs in ((module.generator, g), (module.discriminator, d)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6), name


class NoGradient(AbsorptionRenderer):
    """Renders the same images with a gradient of 0."""

    def render(self, scene, camera, background):
        return super().render(VoxelGrid(scene.occupancy.detach() + 0 * scene.occupancy), camera, background)


def test_generator_learns_only_through_the_renderer(tmp_path):
    module = voxel_gan(NoGradient(16))
    before = copy.deepcopy(module.generator)
    trainer(tmp_path).fit(module, renders(steps=1))
    assert all(torch.equal(p, q) for p, q in zip(module.generator.parameters(), before.parameters(), strict=True))
    trained = voxel_gan()
    trainer(tmp_path).fit(trained, renders(steps=1))
    assert all(not torch.equal(p, q) for p, q in zip(trained.generator.parameters(), before.parameters(), strict=True))


def test_colour_is_rendered_trained_and_shown():
    module = voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4, channels=3)
    shapes = module.shapes(module.latents(6, "test"))
    assert shapes.occupancy.shape == (6, 1, 8, 8, 8) and shapes.color.shape == (6, 3, 8, 8, 8)
    grids = module.sample_grids(2, 3, seed=0)
    assert {k: tuple(v.shape) for k, v in grids.items()} == {
        "samples": (6, 1, 16, 16),
        "normals": (6, 3, 16, 16),
        "volumes": (6, 3, 16, 16),
    }
    volume = module.generator(torch.randn(2, 8))
    image = module.differentiable_renderer(VoxelGrid(volume[:, :1], volume[:, 1:]), VIEWS.sample(2)).image
    module.discriminator(image).sum().backward()
    last = [m for m in module.generator.layers if isinstance(m, torch.nn.ConvTranspose3d)][-1]
    assert (last.weight.grad.abs().sum((0, 2, 3, 4)) > 0).all()  # of occupancy and of each colour


def test_white_emission_equals_absorption(tmp_path):
    first, second = voxel_gan(AbsorptionRenderer(16)), voxel_gan(EmissionAbsorptionRenderer(16))
    for module in (first, second):
        trainer(tmp_path).fit(module, renders(steps=2))
    for p, q in zip(first.generator.parameters(), second.generator.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    whole, resumed = voxel_gan(), voxel_gan()
    trainer(tmp_path).fit(whole, renders(steps=3))

    trainer(tmp_path, callbacks=[StopAt(2, tmp_path / "stop.ckpt")], min_steps=0).fit(voxel_gan(), renders(steps=3))
    state = torch.load(tmp_path / "stop.ckpt", weights_only=True)
    assert {k.split(".")[0] for k in state["state_dict"]} == {"generator", "generator_ema", "discriminator"}
    trainer(tmp_path).fit(resumed, renders(steps=3), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert resumed.step == 3
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_evaluation_uses_the_reference_views(tmp_path):
    """Training uses limited viewpoints; evaluation renders real and generated images from all sides."""
    limited, full = ViewDistribution((-60, 60), (15, 60)), ViewDistribution()
    data = renders(steps=1, reference_views=full)
    assert renders().reference_key == data.reference_key  # the same training images, rendered once
    sampled = []

    class Views(ViewDistribution):
        def sample(self, n, generator=None):
            sampled.append(self)
            return super().sample(n, generator)

    module = voxel_gan()
    data.reference_views, module.views = (
        Views(full.azimuth, full.elevation),
        Views(limited.azimuth, limited.elevation),
    )
    first = trainer(tmp_path, limit_val_batches=1.0).validate(module, data, verbose=False)[0]
    assert set(sampled) == {data.reference_views}
    assert first["fid"] > 0 and {"occupancy", "pairwise_iou"} <= first.keys()
    assert module.evaluation_note == (
        "extractor renders_small, 8 generated against 8 real images, 8 shapes against as many held-out ones"
    )
    sampled.clear()
    trainer(tmp_path).fit(module, data)
    assert set(sampled) == {module.views}


def test_unsuitable_renderers_are_rejected():
    with pytest.raises(InputError, match="must be differentiable, OpenGLRenderer is not; use AbsorptionRenderer"):
        voxel_gan(OpenGLRenderer(16))
    with pytest.raises(InputError, match="must render voxel grids, SoftRasterizer does not"):
        voxel_gan(SoftRasterizer(16))
    with pytest.raises(
        InputError, match="NeuralRenderer has trainable weights, which VoxelGANModule does not train; use IGGANModule"
    ):
        voxel_gan(proxy())


def test_parts_that_do_not_fit_are_rejected():
    with pytest.raises(
        InputError, match=r"renderer.image_size is 16, differentiable_renderer.image_size is 32; set both"
    ):
        voxel_gan(AbsorptionRenderer(32))
    with pytest.raises(
        InputError, match=r"AbsorptionRenderer does not render colour, but generator.out_channels is 4; set it to 1"
    ):
        voxel_gan(out_channels=4, channels=3)
    with pytest.raises(InputError, match=r"gives images of 3 channels, but discriminator.channels is 1; set it to 3"):
        voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4)


def test_generated_images_must_match_the_data(tmp_path):
    module = voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4, channels=3)
    with pytest.raises(InputError, match="real images are 1 x 16 x 16, generated images are 3 x 16 x 16"):
        trainer(tmp_path).fit(module, renders(steps=1))
