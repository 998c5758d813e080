import copy

import pytest
import pytorch_lightning as pl
import torch
from small_iggan import VIEWS, proxy, renders, trainer

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
def test_a_step_is_the_papers(tmp_path, renderer, out_channels):
    """One step against the same two updates written out, for losses and for every weight."""
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


class Blind(AbsorptionRenderer):
    """Draws the same and passes a gradient of 0."""

    def render(self, scene, camera, background):
        return super().render(VoxelGrid(scene.occupancy.detach() + 0 * scene.occupancy), camera, background)


def test_the_generator_learns_through_the_renderer_alone(tmp_path):
    module = voxel_gan(Blind(16))
    before = copy.deepcopy(module.generator)
    trainer(tmp_path).fit(module, renders(steps=1))
    assert all(torch.equal(p, q) for p, q in zip(module.generator.parameters(), before.parameters(), strict=True))
    seeing = voxel_gan()
    trainer(tmp_path).fit(seeing, renders(steps=1))
    assert all(not torch.equal(p, q) for p, q in zip(seeing.generator.parameters(), before.parameters(), strict=True))


def test_colour_is_drawn_learnt_and_shown():
    module = voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4, channels=3)
    shapes = module.shapes(module.latents(6, "test"))
    assert shapes.occupancy.shape == (6, 1, 8, 8, 8) and shapes.color.shape == (6, 3, 8, 8, 8)
    sheets = module.sample_grids(2, 3, seed=0)
    assert {k: tuple(v.shape) for k, v in sheets.items()} == {
        "samples": (6, 1, 16, 16),
        "normals": (6, 3, 16, 16),
        "volumes": (6, 3, 16, 16),
    }
    volume = module.generator(torch.randn(2, 8))
    drawn = module.differentiable_renderer(VoxelGrid(volume[:, :1], volume[:, 1:]), VIEWS.sample(2)).image
    module.discriminator(drawn).sum().backward()
    last = [m for m in module.generator.layers if isinstance(m, torch.nn.ConvTranspose3d)][-1]
    assert (last.weight.grad.abs().sum((0, 2, 3, 4)) > 0).all()  # of occupancy and of each colour


def test_white_emission_is_absorption(tmp_path):
    first, second = voxel_gan(AbsorptionRenderer(16)), voxel_gan(EmissionAbsorptionRenderer(16))
    for module in (first, second):
        trainer(tmp_path).fit(module, renders(steps=2))
    for p, q in zip(first.generator.parameters(), second.generator.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_a_resumed_run_goes_on_bit_for_bit(tmp_path):
    whole, resumed = voxel_gan(), voxel_gan()
    trainer(tmp_path).fit(whole, renders(steps=3))

    class Stop(pl.Callback):
        def on_train_batch_end(self, run, module, *_):
            if module.step == 2:
                run.save_checkpoint(tmp_path / "stop.ckpt")
                run.should_stop = True

    trainer(tmp_path, callbacks=[Stop()], min_steps=0).fit(voxel_gan(), renders(steps=3))
    state = torch.load(tmp_path / "stop.ckpt", weights_only=True)
    assert {k.split(".")[0] for k in state["state_dict"]} == {"generator", "generator_ema", "discriminator"}
    trainer(tmp_path).fit(resumed, renders(steps=3), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert resumed.step == 3
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_evaluation_sees_thresholded_shapes_from_the_reference_views(tmp_path):
    """Limited viewpoints in training, all around in evaluation, of real and of generated images."""
    limited, around = ViewDistribution((-60, 60), (15, 60)), ViewDistribution()
    data = renders(steps=1, reference_views=around)
    assert renders().reference_key == data.reference_key  # the same images, drawn once
    asked = []

    class Views(ViewDistribution):
        def sample(self, n, generator=None):
            asked.append(self)
            return super().sample(n, generator)

    module = voxel_gan()
    data.reference_views, module.views = (
        Views(around.azimuth, around.elevation),
        Views(limited.azimuth, limited.elevation),
    )
    first = trainer(tmp_path, limit_val_batches=1.0).validate(module, data, verbose=False)[0]
    assert set(asked) == {data.reference_views}
    assert first["fid"] > 0 and {"occupancy", "pairwise_iou"} <= first.keys()
    assert module.evaluation_note == "extractor renders_small, 8 generated against 8 real images"
    asked.clear()
    trainer(tmp_path).fit(module, data)
    assert set(asked) == {module.views}


def test_renderers_that_cannot_teach_are_refused():
    with pytest.raises(
        InputError, match="must pass gradients, which OpenGLRenderer does not; choose AbsorptionRenderer"
    ):
        voxel_gan(OpenGLRenderer(16))
    with pytest.raises(InputError, match="must draw voxel grids, which SoftRasterizer does not"):
        voxel_gan(SoftRasterizer(16))
    with pytest.raises(InputError, match="NeuralRenderer has weights to learn, for which IGGANModule is"):
        voxel_gan(proxy())


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"draws 16² images, differentiable_renderer.image_size says 32; set both"):
        voxel_gan(AbsorptionRenderer(32))
    with pytest.raises(
        InputError, match=r"AbsorptionRenderer draws no colour, generator.out_channels says 4; set it to 1"
    ):
        voxel_gan(out_channels=4, channels=3)
    with pytest.raises(InputError, match=r"gives images of 3, discriminator.channels says 1; set it to 3"):
        voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4)


def test_images_unlike_the_data_are_refused(tmp_path):
    module = voxel_gan(EmissionAbsorptionRenderer(16), out_channels=4, channels=3)
    with pytest.raises(InputError, match="real images are 1 x 16 x 16, generated ones 3 x 16 x 16"):
        trainer(tmp_path).fit(module, renders(steps=1))
