"""Augmentation of D's images: steps written out, resuming, what is refused, and the gap of D's logits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from small_iggan import VIEWS, StopAt, iggan, renders, trainer
from two_ranks import modules

from lightning_modules import ImageGANModule
from lightning_modules.base import seeded_generator
from lightning_modules.generative import check_augment
from lightning_modules.losses import logit_gap
from networks import AdaptiveAugment, DCGANDiscriminator, DCGANGenerator, DiffAugment
from renderers import InputError, ViewDistribution, VoxelGrid


def ada(**options) -> AdaptiveAugment:
    """Return an augmentation whose probability changes within a few steps."""
    return AdaptiveAugment(**{"target": -1.0, "interval": 2, "adjust_kimg": 0.02, **options})


def image_gan(**options) -> ImageGANModule:
    torch.manual_seed(0)
    return ImageGANModule(DCGANGenerator(16, latent_size=8, width=16), DCGANDiscriminator(16, width=8), **options)


def transforms(augment: DiffAugment, step: int = 0, n: int = 4) -> dict:
    """Return T of the real and of the generated images of a step."""
    keys = {kind: seeded_generator(0, step, f"augment {kind}") for kind in ("real", "generated")}
    numbers = {kind: torch.rand(n, DiffAugment.numbers, generator=key) for kind, key in keys.items()}
    return {kind: lambda x, u=u: augment(x, u) for kind, u in numbers.items()}


def sgd(params):
    """Not Adam, whose first step does not depend on the size of the gradient."""
    return torch.optim.SGD(params, lr=0.01)


SGD = {"generator_optimizer": sgd, "discriminator_optimizer": sgd}


def descend(network: torch.nn.Module, loss: torch.Tensor) -> None:
    """Make one step of SGD."""
    weights = list(network.parameters())
    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= 0.01 * gradient


def same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6), name


def first_batch() -> torch.Tensor:
    return next(iter(renders(steps=1).train_dataloader()))[0].float() / 255


def test_step_of_an_image_gan_matches_reference(tmp_path):
    """One T of real images, one of generated images for D and G, and R1 at the images before T."""
    module = image_gan(augment=DiffAugment(), r1_gamma=4.0, **SGD)
    reference = copy.deepcopy(module)
    run = trainer(tmp_path)
    run.fit(module, renders(steps=1))

    t = transforms(DiffAugment())
    g, d = reference.generator, reference.discriminator
    real = first_batch().requires_grad_()
    fake = g(torch.randn(4, 8, generator=seeded_generator(0, 0, "latents")))
    a, b = d(torch.cat([t["real"](real), t["generated"](fake.detach())])).chunk(2)
    (gradient,) = torch.autograd.grad(a.sum(), real, create_graph=True)
    r1 = gradient.square().sum((1, 2, 3)).mean()
    descend(d, F.softplus(-a).mean() + F.softplus(b).mean() + 16 * 4 / 8 * r1)
    descend(g, F.softplus(-d.eval()(t["generated"](fake))).mean())

    assert run.callback_metrics["r1"].item() == pytest.approx(r1.item(), rel=1e-4)
    same_weights(module.discriminator, d)
    same_weights(module.generator, g)


@pytest.mark.parametrize("gradient_at", ["proxy", "renderer"])
def test_step_of_iggan_matches_reference(tmp_path, gradient_at):
    """The renders by OpenGL and by R of a sample have the same T, in G's gradient and in output matching."""
    module = iggan(augment=DiffAugment(), gradient_at=gradient_at, proxy_optimizer=sgd, **SGD)
    reference = copy.deepcopy(module)
    run = trainer(tmp_path)
    run.fit(module, renders(steps=1))

    t = transforms(DiffAugment())
    g, d, r = reference.generator, reference.discriminator, reference.neural_renderer
    threshold = torch.rand(4, generator=seeded_generator(0, 0, "thresholds")).view(-1, 1, 1, 1, 1)
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    x = g(torch.randn(4, 8, generator=seeded_generator(0, 0, "latents")))
    y_gl = reference.renderer(VoxelGrid((x > threshold).float()), views).image
    a, b = d(torch.cat([t["real"](first_batch()), t["generated"](y_gl)])).chunk(2)
    descend(d, F.softplus(-a).mean() + F.softplus(b).mean())
    d.eval()
    y_nn = r(VoxelGrid(x), views).image
    at = y_nn if gradient_at == "proxy" else y_gl.detach().requires_grad_()
    g_loss = F.softplus(-d(t["generated"](at))).mean()
    (image_gradient,) = torch.autograd.grad(g_loss, at, retain_graph=True)
    descend(g, (y_nn * image_gradient).sum())
    y_nn = r(VoxelGrid(x.detach()), views).image
    logits = [F.logsigmoid(d(t["generated"](y))) for y in (y_gl, y_nn)]
    r_loss = (y_nn - y_gl).square().sum() / 4 + 100 * (logits[0] - logits[1]).square().mean()
    descend(r, r_loss)

    assert run.callback_metrics["g"].item() == pytest.approx(g_loss.item(), rel=1e-5)
    assert run.callback_metrics["r"].item() == pytest.approx(r_loss.item(), rel=1e-4)
    for ours, theirs in ((module.discriminator, d), (module.generator, g), (module.neural_renderer, r)):
        same_weights(ours, theirs)


@pytest.mark.parametrize("name", ["voxel", "mesh"])
def test_discriminator_sees_transformed_images(tmp_path, name):
    """All images of D in a step, and G's gradient, pass through T: an augmentation that blackens them leaves G as it is."""
    module, data = modules()[name]
    module.augment = DiffAugment(translation=0, cutout=1)
    module.augment.forward = lambda images, uniform: 0 * images
    seen = []
    module.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().max().item()))
    before = copy.deepcopy(module.generator)
    trainer(tmp_path, limit_train_batches=1).fit(module, data)
    assert seen and max(seen) == 0
    same_weights(module.generator, before)


@pytest.mark.parametrize(
    ("name", "gradient_at"),
    [("iggan", "proxy"), ("iggan", "renderer"), ("voxel", None), ("image", None), ("mesh", None)],
)
def test_all_images_of_a_step_have_the_same_probability(tmp_path, name, gradient_at):
    """ADA adapts it after the last use of T: D, G and R see the same T of a generated sample."""
    module, data = modules()[name]
    module.augment, module.gradient_at = ada(), gradient_at
    module.augment.adapt = lambda logits, step: module.augment.probability.add_(0.1)
    transform, seen = module.augment.forward, []

    def recorded(images: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        seen.append((module.step, float(module.augment.probability)))
        return transform(images, uniform)

    module.augment.forward = recorded
    trainer(tmp_path, limit_train_batches=3).fit(module, data)
    assert len({step for step, _ in seen}) == len(set(seen)) == 3
    assert len({probability for _, probability in seen}) == 3


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_run_equals_uninterrupted_run(tmp_path, stop):
    """Also in the middle of an interval of ADA, whose state is in the checkpoint."""
    whole = image_gan(augment=ada())
    trainer(tmp_path).fit(whole, renders(steps=8))
    assert whole.augment.probability > 0.3
    trainer(tmp_path, callbacks=[StopAt(stop, tmp_path / "stop.ckpt")]).fit(image_gan(augment=ada()), renders(steps=8))
    resumed = image_gan(augment=ada())
    trainer(tmp_path).fit(resumed, renders(steps=8), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_transforms_change_by_step_and_by_kind():
    module = image_gan(augment=DiffAugment())
    images = torch.rand(4, 1, 16, 16)
    real, generated = module.augmented(images, "real"), module.augmented(images, "generated")
    assert torch.equal(real, module.augmented(images, "real")) and not torch.equal(real, generated)
    module.step = 1
    assert not torch.equal(real, module.augmented(images, "real"))
    module.augment = None
    assert module.augmented(images, "real") is images


class Photographs:
    def __init__(self, mirror: bool) -> None:
        self.mirror, self.channels = mirror, 3


def test_unsuitable_transforms_are_refused(tmp_path):
    grey, colour = DCGANDiscriminator(16), DCGANDiscriminator(16, channels=3)
    with pytest.raises(InputError, match=r"augment.color is for RGB images, but discriminator.channels is 1; set it"):
        check_augment(DiffAugment(color=True), grey, None, None)
    mirror = DiffAugment(mirror=True, color=True)
    check_augment(mirror, colour, ViewDistribution((-45, 45)), Photographs(mirror=True))
    check_augment(mirror, colour, None, Photographs(mirror=True))
    with pytest.raises(InputError, match="mirror is for data that are mirrored"):
        check_augment(mirror, colour, ViewDistribution(), Photographs(mirror=False))
    with pytest.raises(
        InputError, match=r"about azimuth 0, but views.azimuth is \[0, 90\]; set augment.mirror to false"
    ):
        check_augment(mirror, colour, ViewDistribution((0, 90)), Photographs(mirror=True))
    with pytest.raises(InputError, match="mirrored renders would be lit from the wrong side"):
        trainer(tmp_path).fit(iggan(augment=DiffAugment(mirror=True)), renders(steps=1))


def test_gap_is_in_units_of_the_standard_deviation():
    gap = logit_gap(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 3.0]))
    assert (gap["d_train"], gap["d_held_out"]) == (4, 2) and gap["d_gap"] == pytest.approx(2 / math.sqrt(2))


def test_evaluation_measures_the_gap(tmp_path):
    module, data = image_gan(discriminator_gap=6, augment=ada()), renders(steps=1)
    figures = trainer(tmp_path, limit_val_batches=1.0).validate(module, data, verbose=False)[0]
    train = torch.from_numpy(data._cache(train=True).load())[:6].float() / 255
    with torch.no_grad():
        expected = module.eval().discriminator(train).mean().item()
    assert figures["d_train"] == pytest.approx(expected, rel=1e-5)
    assert figures["d_held_out"] != figures["d_train"] and math.isfinite(figures["d_gap"])


def test_gap_needs_held_out_images(tmp_path):
    data = renders(steps=1)
    data.sample_images = lambda count: None
    with pytest.raises(InputError, match="discriminator_gap needs a data module with held-out images"):
        trainer(tmp_path, limit_val_batches=1.0).validate(image_gan(discriminator_gap=6), data, verbose=False)
    images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    data.sample_images = lambda count: (images, images[:1])
    with pytest.raises(InputError, match="needs two training images and two held-out images, got 4 and 1"):
        trainer(tmp_path, limit_val_batches=1.0).validate(image_gan(discriminator_gap=6), data, verbose=False)
    with pytest.raises(InputError, match="discriminator_gap, if not 0, must be at least 2"):
        image_gan(discriminator_gap=1)
