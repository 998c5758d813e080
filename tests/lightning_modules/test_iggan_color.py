"""IG-GAN with colour."""

import copy

import pytest
import torch
from small_iggan import VIEWS, iggan, proxy, trainer

from datamodules import ShapeNetRenderDataModule
from datamodules.shapes import ProceduralShapes
from lightning_modules.base import seeded_generator
from networks import DCGANDiscriminator, ShadingNet, VoxelGenerator
from renderers import DeferredNeuralRenderer, InputError, LitAbsorptionRenderer, OpenGLRenderer, VoxelGrid


def parts(**options):
    torch.manual_seed(0)
    settings = {
        "generator": VoxelGenerator(8, latent_size=8, width=16, out_channels=4),
        "discriminator": DCGANDiscriminator(16, channels=3, width=8),
        "renderer": OpenGLRenderer(16, backend="moderngl", colored=True),
        "neural_renderer": DeferredNeuralRenderer(ShadingNet(width=4), 16),
        "dom_weight": 0.0,
        "extractor": "renders_color",
    }
    return settings | options


def renders(renderer=None, colored=True):
    shapes = (ProceduralShapes("chair", 8, 16, split=split, colored=colored) for split in ("train", "test"))
    return ShapeNetRenderDataModule(
        shapes=next(shapes),
        reference_shapes=next(shapes),
        renderer=renderer or OpenGLRenderer(16, backend="moderngl", colored=True),
        views=VIEWS,
        batch_size=4,
        total_kimg=0.004,
        reference_images=8,
    )


@pytest.mark.parametrize("gradient_at", ["proxy", "renderer"])
@pytest.mark.parametrize("proxy_input", ["continuous", "soft_threshold", "thresholded"])
def test_training_step_matches_reference(tmp_path, gradient_at, proxy_input):
    """All weights after one step equal those of the three updates written out; the threshold leaves colour alone."""
    module = iggan(**parts(gradient_at=gradient_at, proxy_input=proxy_input))
    reference = copy.deepcopy(module)
    trainer(tmp_path).fit(module, renders())

    real = next(iter(renders().train_dataloader()))[0].float() / 255
    assert real.shape == (4, 3, 16, 16) and (real[:, 0] != real[:, 1]).any()
    z = torch.randn(4, 8, generator=seeded_generator(0, 0, "latents"))
    t = torch.rand(4, generator=seeded_generator(0, 0, "thresholds")).view(-1, 1, 1, 1, 1)
    views = VIEWS.sample(4, seeded_generator(0, 0, "views"))
    g, d, r = reference.generator, reference.discriminator, reference.neural_renderer
    steps = [
        torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999)) for net, lr in ((g, 2e-4), (d, 2e-4), (r, 2e-5))
    ]
    softplus = torch.nn.functional.softplus

    x = g(z)
    occupancy, color = x[:, :1], x[:, 1:]
    solid = (occupancy > t).float()
    y_gl = reference.renderer(VoxelGrid(solid, color.detach()), views).image
    logits = d(torch.cat([real, y_gl]))
    (softplus(-logits[:4]).mean() + softplus(logits[4:]).mean()).backward()
    steps[1].step()
    d.eval()
    seen = occupancy
    if proxy_input == "soft_threshold":
        seen = torch.sigmoid((occupancy.logit(eps=1e-6) - t.clamp(0.02, 0.98).logit()) / 0.5)
    elif proxy_input == "thresholded":
        seen = occupancy + (solid - occupancy).detach()
    y_nn = r(VoxelGrid(seen, color), views).image
    if gradient_at == "proxy":
        g_grads = torch.autograd.grad(softplus(-d(y_nn)).mean(), list(g.parameters()), retain_graph=True)
    else:
        image = y_gl.clone().requires_grad_()
        (upstream,) = torch.autograd.grad(softplus(-d(image)).mean(), image)
        g_grads = torch.autograd.grad(y_nn, list(g.parameters()), upstream, retain_graph=True)
    r_grads = torch.autograd.grad((y_nn - y_gl).square().sum() / 4, list(r.parameters()))
    for network, grads, step in ((g, g_grads, steps[0]), (r, r_grads, steps[2])):
        for p, gradient in zip(network.parameters(), grads, strict=True):
            p.grad = gradient
        step.step()
    for ours, theirs in ((module.generator, g), (module.discriminator, d), (module.neural_renderer, r)):
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, atol=2e-6), name


def test_the_color_channels_of_the_generator_get_a_gradient(tmp_path):
    module = iggan(**parts(neural_renderer=LitAbsorptionRenderer(16), proxy="fixed", gradient_at="renderer"))
    last = [m for m in module.generator.modules() if isinstance(m, torch.nn.ConvTranspose3d)][-1]
    before = last.bias.detach().clone()
    trainer(tmp_path).fit(module, renders())
    assert (last.bias.detach() != before).all()


def test_samples_have_colors():
    samples = iggan(**parts()).predict_step(torch.tensor([0, 1]), 0)
    assert samples["color"].shape == (2, 3, 8, 8, 8) and samples["image"].shape == (2, 3, 16, 16)
    assert "color" not in iggan().predict_step(torch.tensor([0]), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"neural_renderer": proxy()},
            "NeuralRenderer does not render colour, but generator.out_channels is 4; use Def",
        ),
        ({"renderer": OpenGLRenderer(16)}, "set renderer.colored to true, or out_channels to 1"),
        ({"discriminator": DCGANDiscriminator(16, width=8)}, "discriminator.channels is 1; set it to 3"),
        ({"generator": VoxelGenerator(8, 8, 16, out_channels=3)}, r"must be 1, 2 \(grey\) or 4 \(RGB\), got 3"),
    ],
)
def test_parts_that_do_not_match_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        iggan(**parts(**options))


def test_data_without_colors_are_refused():
    with pytest.raises(InputError, match=r"renderer.colored is true, but shapes have no colours; use ProceduralShapes"):
        renders(colored=False)
    with pytest.raises(InputError, match=r"shapes have colours, but renderer.colored is false"):
        renders(OpenGLRenderer(16))
