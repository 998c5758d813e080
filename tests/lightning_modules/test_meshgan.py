import copy
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from small_iggan import StopAt, trainer

from datamodules import HeadsDataModule
from datamodules.base import RunDataModule
from datamodules.samplers import BatchPlan, StepBatchSampler
from lightning_modules import GrowthPhase, MeshGANModule
from lightning_modules.base import seeded_generator
from lightning_modules.losses import gradient_penalty
from lightning_modules.progressive_growing import Growth, GrowthStage
from networks import MeshGenerator, StyleGANDiscriminator
from renderers import (
    AbsorptionRenderer,
    Camera,
    InputError,
    OpenGLRenderer,
    Rendering,
    SoftRasterizer,
    ViewDistribution,
)
from utils.philox import hash_key, keyed_normal

VIEWS = ViewDistribution((-45, 45), (-15, 15), fov=10)
# Batches of 4: 8² for two steps, a fade over four, then 16².
GROWTH = [GrowthPhase(8, 0, 0.008), GrowthPhase(16, 0.016, 0.008, lr_factor=1.5)]
TINY = {"channel_base": 64, "channel_max": 8}


def meshgan(growth=GROWTH, **options) -> MeshGANModule:
    torch.manual_seed(0)
    module = MeshGANModule(
        MeshGenerator(16, latent_size=8, style_size=8, mapping_layers=2, **TINY),
        StyleGANDiscriminator(16, **TINY),
        SoftRasterizer(16),
        VIEWS,
        growth=growth,
        **{"extractor": "renders_color", **options},
    )
    for p in module.generator.parameters():  # parameters that start at 0, such as noise strengths, matter too
        p.data += 0.1 * torch.randn_like(p)
    module.generator_ema.load_state_dict(module.generator.state_dict())
    return module


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01)


class Images(RunDataModule):
    """Random images."""

    def __init__(self, steps: int, size: int = 16, channels: int = 3, changes: tuple = ()) -> None:
        super().__init__(batch_size=4, total_kimg=steps * 4 / 1000, batch_changes=changes)
        self.images = torch.randint(0, 256, (12, channels, size, size), dtype=torch.uint8)
        self.reference_images = 8

    def train_dataloader(self):
        return self.training_loader(torch.utils.data.TensorDataset(self.images), 12)

    def val_dataloader(self):
        return self.evaluation_loader(torch.utils.data.TensorDataset(self.images[:8]), 8)


def images(steps: int, **options) -> Images:
    torch.manual_seed(1)
    return Images(steps, **options)


def generators(step: int, *names: str) -> dict[str, torch.Generator]:
    return {name: seeded_generator(0, step, name) for name in names}


@pytest.mark.parametrize(("step", "size", "fade"), [(0, 8, 1.0), (3, 16, 0.25), (7, 16, 1.0)])
def test_training_step_matches_reference(tmp_path, step, size, fade):
    """Losses and all weights after one step equal those of the same two updates written out, at each stage of growth.

    Uses SGD: Adam's first step without momentum does not depend on the size of the gradient.
    """
    module, data = meshgan(generator_optimizer=sgd, discriminator_optimizer=sgd), images(step + 1)
    module.step, module.images_seen = step, 4 * step
    reference = copy.deepcopy(module)
    run = trainer(tmp_path)
    run.fit(module, data)
    assert module.step == step + 1

    g, d = reference.generator, reference.discriminator
    lr = 0.015 if size == 16 else 0.01
    g_step, d_step = (torch.optim.SGD(net.parameters(), lr=lr) for net in (g, d))
    order = StepBatchSampler(12, BatchPlan(4, 4 * (step + 1)))
    real = data.images[[order.item(p) for p in range(4 * step, 4 * step + 4)]].float() / 255
    real = real.unflatten(2, (size, -1)).unflatten(4, (size, -1)).mean((3, 5))

    def faded(x):
        small = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        return fade * x + (1 - fade) * small.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def keyed(name, count):  # each sample alone
        return torch.cat([keyed_normal(hash_key(0, step, name), [i], count) for i in range(4)])

    def noise(name):
        sizes = g.object.noise_sizes(2 * size)
        parts = keyed(name, sum(n * n for n in sizes)).split([n * n for n in sizes], 1)
        return [part.reshape(4, 1, n, n) for part, n in zip(parts, sizes, strict=True)]

    s = generators(step, "crop", "views", "object crossover", "background crossover")
    z, mix = keyed("latents", 16), keyed("mixing", 16)
    scene = g(
        z,
        size,
        fade,
        offsets=torch.randint(0, size + 1, (4, 2), generator=s["crop"]),
        mix=mix,
        crossover=(
            g.object.sample_crossover(2 * size, s["object crossover"]),
            g.background.sample_crossover(2 * size, s["background crossover"]),
        ),
        noise=(noise("object noise"), noise("background noise")),
    )
    fake = faded(SoftRasterizer(size)(scene.mesh, VIEWS.sample(4, s["views"]), scene.background).image)
    real = faded(real).requires_grad_()
    real_logits, fake_logits = d(real, fade), d(fake.detach(), fade)
    signed = 2 * real.detach() - 1  # published R1 is for images in [-1, 1]
    signed.requires_grad_()
    (gradient,) = torch.autograd.grad(d((signed + 1) / 2, fade).sum(), signed, create_graph=True)
    penalty = gradient.square().sum((1, 2, 3)).mean()
    d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    (d_loss + 10 / 2 * penalty).backward()
    d_step.step()
    g_loss = F.softplus(-d(fake, fade)).mean()
    gradients = torch.autograd.grad(g_loss, list(g.parameters()), allow_unused=True)
    for p, gradient in zip(g.parameters(), gradients, strict=True):
        p.grad = gradient
    g_step.step()

    logged = {k: float(v) for k, v in run.callback_metrics.items()}
    assert logged["d"] == pytest.approx(d_loss.item(), rel=1e-5)
    assert logged["g"] == pytest.approx(g_loss.item(), rel=1e-5)
    assert logged["r1"] == pytest.approx(4 * penalty.item(), rel=1e-4)
    assert (logged["resolution"], logged["fade"]) == (size, fade)
    for ours, theirs in ((module.generator, g), (module.discriminator, d)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-5, atol=1e-6), name
    assert torch.allclose(module.generator.object.style_average, g.object.style_average)


def test_growth_follows_published_schedule():
    growth = Growth([GrowthPhase(16, 0)] + [GrowthPhase(n) for n in (32, 64)] + [GrowthPhase(128, lr_factor=1.5)])
    expected = {
        0: (16, 1.0, 1),
        599_999: (16, 1.0, 1),
        600_000: (32, 0.0, 2),
        600_150: (32, 0.00025, 2),
        900_000: (32, 0.5, 2),
        1_200_000: (32, 1.0, 3),
        1_950_000: (64, 0.25, 4),
        2_400_000: (64, 1.0, 5),
        3_000_000: (128, 0.0, 6),
        3_450_000: (128, 0.75, 6),
        3_600_000: (128, 1.0, 7),
        25_000_000: (128, 1.0, 7),
    }
    for images, (resolution, fade, segment) in expected.items():
        assert growth.at(images) == GrowthStage(resolution, fade, segment, 1.5 if resolution == 128 else 1.0)


def test_gradient_penalty_is_the_squared_gradient():
    x, a = torch.rand(3, 1, 2, 2, requires_grad=True), torch.rand(1, 1, 2, 2)
    penalty = gradient_penalty((a * x.square() / 2).sum((1, 2, 3)), x)
    assert penalty.item() == pytest.approx(((a * x) ** 2).sum().item() / 3)
    (second,) = torch.autograd.grad(penalty, x)
    assert torch.allclose(second, 2 * a**2 * x / 3)


def test_lazy_r1_runs_every_r1_every_steps(tmp_path, monkeypatch):
    module = meshgan(r1_every=3)
    computed, logged = {}, []

    def penalty(logits, real):
        computed[module.step] = gradient_penalty(logits, real)
        return computed[module.step]

    monkeypatch.setattr("lightning_modules.generative.gradient_penalty", penalty)
    module.log = lambda name, value, *_, **__: logged.append((module.step, name, float(value)))
    trainer(tmp_path).fit(module, images(5))
    assert list(computed) == [0, 3]
    first, second = (float(value) for value in computed.values())
    values = [first, first, first, second, second]  # steps without a penalty log the newest one
    assert [(step, value) for step, name, value in logged if name == "r1"] == list(enumerate(values))


def test_fades_reset_optimizers_and_phases_set_learning_rates(tmp_path):
    """A fade begins at 8 images and ends at 24."""
    records = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, run, module, *_):
            for optimizer in run.optimizers:
                states = list(optimizer.state.values())
                records.append((module.images_seen, not states, optimizer.param_groups[0]["lr"]))

        def on_train_batch_end(self, run, module, *_):
            records.extend((module.images_seen, "lr", o.param_groups[0]["lr"]) for o in run.optimizers)

    run = trainer(tmp_path, callbacks=[Recorder()])
    run.fit(meshgan(), images(8))
    for optimizer in run.optimizers:
        assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["betas"] == (0.0, 0.99)
    assert {count for count, empty, _ in records if empty is True} == {0, 8, 24}
    rates = {count: lr for count, kind, lr in records if kind == "lr"}
    assert [rates[i] for i in (4, 8, 12, 32)] == pytest.approx([1e-3, 1e-3, 1.5e-3, 1.5e-3])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 4, 6])  # at the beginning, in the middle and at the end of a fade
@pytest.mark.parametrize(("changes", "steps"), [((), 8), (((0.012, 2),), 13)])
def test_resumed_run_equals_uninterrupted_run(tmp_path, stop, changes, steps):
    whole, resumed = meshgan(), meshgan()
    trainer(tmp_path).fit(whole, images(8, changes=changes))
    assert (whole.step, whole.images_seen) == (steps, 32)

    trainer(tmp_path, callbacks=[StopAt(stop, tmp_path / "stop.ckpt")], min_steps=0).fit(
        meshgan(), images(8, changes=changes)
    )
    state = torch.load(tmp_path / "stop.ckpt", weights_only=True)
    assert {k.split(".")[0] for k in state["state_dict"]} == {"generator", "generator_ema", "discriminator"}
    trainer(tmp_path).fit(resumed, images(8, changes=changes), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert resumed.step == steps
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


def test_ema_has_its_half_life_and_copies_the_mean_style():
    module = meshgan(ema_half_life_kimg=1.0)
    module.images_seen = 1_000_000
    before, target = (copy.deepcopy(g.state_dict()) for g in (module.generator_ema, module.generator))
    for name in target:
        target[name] = before[name] + 1
    module.generator.load_state_dict(target)
    for _ in range(10):
        module.update_ema(100)
    after = module.generator_ema.state_dict()
    for name, value in after.items():
        moved = 1.0 if "style_average" in name else 0.5
        assert torch.allclose(value - before[name], torch.tensor(moved), atol=1e-3), name


def test_gradients_reach_shape_texture_and_background():
    module = meshgan()
    module.images_seen = 24
    scene, views = module.sample_scene(4)
    image = module.render(scene.mesh, views, scene.background, normals=False).image
    module.discriminator(image).sum().backward()
    object_channels = module.generator.object.synthesis.to_image[-1].weight.grad.abs().sum((1, 2, 3))
    assert (
        object_channels.shape == (15,) and (object_channels > 0).all()
    )  # 4 shape images (12 channels), then the texture
    assert (module.generator.background.synthesis.to_image[-1].weight.grad.abs().sum((1, 2, 3)) > 0).all()


def test_evaluation_uses_last_resolution_and_notes_it(tmp_path):
    module, data = meshgan(), images(1)
    run = trainer(tmp_path, limit_val_batches=1.0)
    notes = {}
    for count in (0, 12, 24):
        module.images_seen = count
        assert run.validate(module, data, verbose=False)[0]["fid"] > 0
        notes[count] = module.evaluation_note.removeprefix("extractor renders_color, 8 generated against 8 real images")
        z = module.latents(2, "test")
        first = module.generate_for_metrics(z, "key")
        assert first.shape == (2, 3, 16, 16) and torch.equal(first, module.generate_for_metrics(z, "key"))
    assert notes == {0: ", generated at 8² and enlarged to 16²", 12: ", 16² faded in by 25%", 24: ""}


@pytest.mark.parametrize("part", (16, 3))
def test_depth_is_measured_against_known_geometry(tmp_path, monkeypatch, part):
    """A generator compared with its own samples from the front has perfect depth; the note has their number.

    At 128² all of the samples at once would not fit into the memory of a GPU.
    """
    monkeypatch.setattr("lightning_modules.meshgan.MAX_SCENES", part)
    module, data = meshgan(), images(1)
    module.images_seen = 24
    truth = module.seeded_scenes(module.latents(8, "depth"), "depth").mesh

    class HeldOut:
        def canonical(self, indices):
            return SoftRasterizer(16)(truth, Camera.orbit([0.0] * len(indices), 0.0, fov=10))

    data.held_out = HeldOut()
    figures = trainer(tmp_path, limit_val_batches=1.0).validate(module, data, verbose=False)[0]
    assert figures["depth_correlation_nearest"] == pytest.approx(1, abs=1e-4)
    assert figures["silhouette_iou_nearest"] == pytest.approx(1, abs=1e-4)
    assert module.evaluation_note.endswith("depth of 8 against as many true ones from the front")


def test_depth_is_measured_against_the_heads_of_the_data(tmp_path):
    """Not those of an earlier data module; photographs have none."""
    module, data = meshgan(), images(1)
    module.images_seen = 24
    run = trainer(tmp_path, limit_val_batches=1.0)

    class Generated:
        def __init__(self, *key: str) -> None:
            self.mesh = module.seeded_scenes(module.latents(8, *key), *key).mesh

        def canonical(self, indices):
            rendering = SoftRasterizer(16)(self.mesh, Camera.orbit([0.0] * 8, 0.0, fov=10))
            return Rendering(*(part[: len(indices)] for part in vars(rendering).values()))

    nearest = []
    for key, count in (("other", 8), ("depth", 8), ("depth", 5)):
        data.held_out, data.reference_images = Generated(key), count
        nearest.append(run.validate(module, data, verbose=False)[0]["silhouette_iou_nearest"])
        assert module.evaluation_note.endswith(f", depth of {count} against as many true ones from the front")
    assert nearest[0] < 0.99 and nearest[1:] == pytest.approx([1, 1], abs=1e-4)
    del data.held_out
    assert "depth_correlation" not in run.validate(module, data, verbose=False)[0]
    assert "depth" not in module.evaluation_note


def test_depth_is_measured_whatever_the_renderer_returns_otherwise(tmp_path, monkeypatch):
    data = HeadsDataModule(16, images=4, reference_images=4, batch_size=4, total_kimg=0.004)
    module, without = meshgan(), meshgan()
    without.renderer.normals = False
    run = trainer(tmp_path, limit_val_batches=1.0)
    figures = run.validate(module, data, verbose=False)[0]
    assert run.validate(without, data, verbose=False)[0] == figures and "normal_error" in figures
    assert "normals" in module.sample_grids(1, 2, 0) and "normals" not in without.sample_grids(1, 2, 0)
    forward = SoftRasterizer.forward
    monkeypatch.setattr(SoftRasterizer, "forward", lambda *x: replace(forward(*x), depth=None))
    with pytest.raises(
        InputError, match=r"HeadsDataModule measure depth and normals, which .* does not return; use Soft"
    ):
        run.validate(meshgan(), data, verbose=False)


def test_sample_grids_and_predicted_samples():
    module = meshgan()
    module.images_seen = 24
    assert {k: tuple(v.shape) for k, v in module.sample_grids(2, 3, seed=0).items()} == {
        "samples": (6, 3, 16, 16),
        "normals": (6, 3, 16, 16),
        "textures": (6, 3, 32, 32),
        "backgrounds": (6, 3, 32, 32),
        "turns": (3, 3, 80, 16),
    }
    several, one = (module.predict_step(torch.tensor(numbers), 0) for numbers in ([4, 5, 6], [5]))
    for name, value in one.items():
        expected = several[name] if name in ("faces", "uvs") else several[name][1:2]
        assert torch.allclose(value, expected, atol=1e-5), name
    module.truncation = 0.0
    still = module.predict_step(torch.arange(2), 0)["vertices"]
    assert torch.allclose(still[0], still[1], atol=1e-5)  # all truncated layers have the mean style

    def textures(cutoff: int | None) -> torch.Tensor:
        module.truncation_cutoff = cutoff
        return module.predict_step(torch.arange(2), 0)["texture"]

    assert torch.allclose(*textures(None), atol=1e-5) and not torch.allclose(*textures(2), atol=1e-3)


def test_parts_that_do_not_fit_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"must double from phase to phase, got \[8, 32\]"):
        meshgan([GrowthPhase(8, 0), GrowthPhase(32)])
    with pytest.raises(InputError, match="first phase of growth cannot fade in"):
        meshgan([GrowthPhase(8)])
    with pytest.raises(InputError, match=r"a phase of 32², generator.image_size allows"):
        meshgan([GrowthPhase(32, 0)])
    with pytest.raises(InputError, match=r"a phase of 16², discriminator.resolution is 8"):
        MeshGANModule(MeshGenerator(16, 8, **TINY), StyleGANDiscriminator(8, **TINY), SoftRasterizer(16), VIEWS)
    for renderer in (OpenGLRenderer(16), AbsorptionRenderer(16)):
        with pytest.raises(InputError, match="must be differentiable and render meshes"):
            MeshGANModule(MeshGenerator(16, 8, **TINY), StyleGANDiscriminator(16, **TINY), renderer, VIEWS)
    with pytest.raises(InputError, match="real images are 3 x 32 x 32, the last phase of growth is 3 x 16 x 16"):
        trainer(tmp_path).fit(meshgan(), images(1, size=32))
    grey = images(1, channels=1)
    with pytest.raises(InputError, match=r"real images are 1 x 16 x 16, .*; use RGB images"):
        trainer(tmp_path).fit(meshgan(), grey)
    grey.channels = 1
    with pytest.raises(InputError, match="MeshGAN needs RGB images, and these data are grey"):
        trainer(tmp_path).fit(meshgan(), grey)
