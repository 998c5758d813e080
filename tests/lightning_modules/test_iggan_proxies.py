"""IG-GAN with other proxies, proxy inputs and generator gradients than the paper's."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from small_iggan import VIEWS, iggan, renders, trainer

from lightning_modules.base import seeded_generator
from lightning_modules.losses import image_loss, output_matching_loss
from renderers import (
    InputError,
    LitAbsorptionRenderer,
    OpenGLRenderer,
    SoftRasterizer,
    VoxelGrid,
)

LR = {"generator": 1.0, "discriminator": 1e-2, "proxy": 1e-4}
softplus = torch.nn.functional.softplus


def lit(**options):
    return iggan(neural_renderer=LitAbsorptionRenderer(16), proxy="fixed", **options)


def with_render_net(**options):
    return iggan(dom_weight=3.0, temperature=0.7, **options)


def with_two_views(**options):
    return lit(views_per_shape=2, **options)


def with_r1(**options):
    return lit(r1_gamma=50.0, r1_every=3, **options)


@pytest.mark.parametrize("make", [lit, with_render_net, with_two_views, with_r1])
@pytest.mark.parametrize("gradient_at", ["proxy", "renderer"])
@pytest.mark.parametrize("proxy_input", ["continuous", "soft_threshold", "thresholded"])
def test_training_step_matches_reference(tmp_path, make, proxy_input, gradient_at):
    """All weights after one step equal those of the same updates written out.

    SGD, unlike Adam's first step, depends on the scale of the gradients.
    """
    names = ("generator", "discriminator", "proxy")
    sgd = {f"{name}_optimizer": partial(torch.optim.SGD, lr=LR[name]) for name in names}
    module = make(proxy_input=proxy_input, gradient_at=gradient_at, **sgd)
    reference, before = copy.deepcopy(module), copy.deepcopy(module)
    trainer(tmp_path).fit(module, renders(steps=1))

    real = next(iter(renders(steps=1).train_dataloader()))[0].float() / 255
    shapes = 4 // module.views_per_shape
    z = torch.randn(shapes, 8, generator=seeded_generator(0, 0, "latents"))
    t = torch.rand(4, generator=seeded_generator(0, 0, "thresholds")).view(-1, 1, 1, 1, 1)
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    g, d, r = reference.generator, reference.discriminator, reference.neural_renderer
    g_step = torch.optim.SGD(g.parameters(), lr=LR["generator"])
    d_step = torch.optim.SGD(d.parameters(), lr=LR["discriminator"])

    x = g(z)
    if shapes == 2:  # images of one shape are neighbours
        x = x[[0, 0, 1, 1]]
    solid = (x > t).float()
    y_gl = reference.renderer(VoxelGrid(solid), views).image
    real.requires_grad_()
    logits = d(torch.cat([real, y_gl]))
    loss = softplus(-logits[:4]).mean() + softplus(logits[4:]).mean()
    if module.r1_gamma:  # γ is for images in [-1, 1]: with x = 2 y - 1, |dD/dx|² = |dD/dy|² / 4
        (gradient,) = torch.autograd.grad(logits[:4].sum(), real, create_graph=True)
        loss = loss + 3 * 50.0 / 2 * (gradient / 2).square().sum((1, 2, 3)).mean()
    loss.backward()
    d_step.step()
    d.eval()

    # G: the vector-Jacobian product of the proxy, with the gradient of D at one of the two images.
    if proxy_input == "continuous":
        grid = x.detach().requires_grad_()
    elif proxy_input == "thresholded":
        grid = solid.clone().requires_grad_()
    else:
        bounded = t.clamp(0.02, 0.98)
        grid = torch.sigmoid((torch.log(x / (1 - x)) - torch.log(bounded / (1 - bounded))) / reference.temperature)
        soft, grid = grid, grid.detach().requires_grad_()
    y_proxy = r(VoxelGrid(grid), views).image
    image = (y_proxy.detach() if gradient_at == "proxy" else y_gl).clone().requires_grad_()
    softplus(-d(image)).mean().backward()
    (gradient,) = torch.autograd.grad(y_proxy, grid, image.grad)
    target = soft if proxy_input == "soft_threshold" else x  # straight-through: the gradient of x_d is that of x
    for p, value in zip(g.parameters(), torch.autograd.grad(target, list(g.parameters()), gradient), strict=True):
        p.grad = value
    g_step.step()

    if module.proxy == "retrained":
        r_step = torch.optim.SGD(r.parameters(), lr=LR["proxy"])
        y_proxy = r(VoxelGrid(grid.detach()), views).image
        loss = image_loss(y_proxy, y_gl) + 3.0 * output_matching_loss(d(y_proxy), d(y_gl))
        for p, value in zip(r.parameters(), torch.autograd.grad(loss, list(r.parameters())), strict=True):
            p.grad = value
        r_step.step()

    for name in ("generator", "discriminator", "neural_renderer"):
        ours, theirs, old = (getattr(part, name) for part in (module, reference, before))
        for (weight, p), q, start in zip(ours.named_parameters(), theirs.parameters(), old.parameters(), strict=True):
            update = (q - start).abs().max()
            assert (p - q).abs().max() <= 1e-3 * update + 1e-7, f"{name}.{weight}"


def test_the_proxy_is_updated_in_every_nth_step(tmp_path):
    module = with_render_net(proxy_every=2)
    weights = []
    module.update_ema = lambda batch: weights.append(
        [
            torch.cat([p.detach().flatten() for p in part.parameters()])
            for part in (module.generator, module.neural_renderer)
        ]
    )
    trainer(tmp_path).fit(module, renders(steps=4))
    changes = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)] for pair in pairwise(weights)]
    assert changes == [[True, False], [True, True], [True, False]]


def test_a_partly_frozen_proxy_is_retrained_in_its_other_weights(tmp_path):
    module = with_render_net()
    first, *others = module.neural_renderer.parameters()
    first.requires_grad_(False)
    before = copy.deepcopy([first, *others])
    trainer(tmp_path).fit(module, renders(steps=1))
    changed = [not torch.equal(p, q) for p, q in zip([first, *others], before, strict=True)]
    assert changed == [False] + [True] * len(others)


def test_solids_have_no_gradient():
    """A differentiable renderer as black box would otherwise backpropagate to G's colours twice."""
    grid = VoxelGrid(torch.rand(1, 1, 4, 4, 4, requires_grad=True), torch.rand(1, 3, 4, 4, 4, requires_grad=True))
    solid = grid.binarize()
    assert torch.equal(solid.color, grid.color)
    assert not solid.occupancy.requires_grad and not solid.color.requires_grad


def test_soft_threshold_approaches_the_solid():
    module = lit(proxy_input="soft_threshold", temperature=1e-3)
    x = VoxelGrid(module.generator(torch.randn(3, 8)))
    t = torch.tensor([0.3, 0.5, 0.7])
    soft = module._proxy_grid(x, x.binarize(t), t)
    away = (x.occupancy - t.view(-1, 1, 1, 1, 1)).abs() > 0.01
    assert torch.allclose(soft[away], x.binarize(t).occupancy[away], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neural_renderer": LitAbsorptionRenderer(16)}, "LitAbsorptionRenderer has no weights to train; set proxy to"),
        (
            {"neural_renderer": LitAbsorptionRenderer(16), "proxy": "fixed", "proxy_checkpoint": "proxy_tables.yaml"},
            "has no weights to load; set proxy_checkpoint to null",
        ),
        ({"neural_renderer": OpenGLRenderer(16)}, "must be a differentiable renderer of voxel grids, OpenGLRenderer"),
        ({"neural_renderer": SoftRasterizer(16)}, "must be a differentiable renderer of voxel grids, SoftRasterizer"),
        ({"neural_renderer": LitAbsorptionRenderer(32), "proxy": "fixed"}, "neural_renderer.image_size is 32"),
        ({"views_per_shape": 0}, "views_per_shape must be at least 1, not 0"),
        ({"proxy_every": 0}, "proxy_every must be at least 1, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
    ],
)
def test_parts_that_do_not_fit_are_rejected(options, message):
    with pytest.raises(InputError, match=message):
        iggan(**options)


def test_views_per_shape_that_do_not_divide_the_batch_are_rejected(tmp_path):
    with pytest.raises(
        InputError, match=r"views_per_shape must divide .* it is 3, and a step has 4 images per process"
    ):
        trainer(tmp_path).fit(lit(views_per_shape=3), renders(steps=1))
