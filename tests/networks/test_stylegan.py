import math

import pytest
import torch
import torch.nn.functional as F

from networks import StyleGANDiscriminator, StyleGANGenerator
from networks.stylegan_layers import (
    AdaIN,
    EqualizedConv2d,
    EqualizedLinear,
    StyledLayer,
    blur,
    downsample,
    fade_images,
    minibatch_stddev,
    pixel_norm,
    upsample,
)
from utils.errors import InputError

# Layer, channels and parameters, as the published TensorFlow program prints them for its 1024² networks (print_layers of
# NVlabs/stylegan). Their sums are 26,219,627 and 23,087,249, the paper's 26.2M and 23.1M. A layer's channels depend only on
# its resolution, so the 128² networks are the rows up to 128².
PUBLISHED_G = """
4x4/Const 512 534528          4x4/Conv 512 2885632         ToRGB_4 3 1539
8x8/Conv0_up 512 2885632      8x8/Conv1 512 2885632        ToRGB_8 3 1539
16x16/Conv0_up 512 2885632    16x16/Conv1 512 2885632      ToRGB_16 3 1539
32x32/Conv0_up 512 2885632    32x32/Conv1 512 2885632      ToRGB_32 3 1539
64x64/Conv0_up 256 1442816    64x64/Conv1 256 852992       ToRGB_64 3 771
128x128/Conv0_up 128 426496   128x128/Conv1 128 279040     ToRGB_128 3 387
256x256/Conv0_up 64 139520    256x256/Conv1 64 102656      ToRGB_256 3 195
512x512/Conv0_up 32 51328     512x512/Conv1 32 42112       ToRGB_512 3 99
1024x1024/Conv0_up 16 21056   1024x1024/Conv1 16 18752     ToRGB_1024 3 51
"""
PUBLISHED_D = """
FromRGB_4 512 2048    4x4/Conv 512 2364416          4x4/Dense0 512 4194816
FromRGB_8 512 2048    8x8/Conv0 512 2359808         8x8/Conv1_down 512 2359808
FromRGB_16 512 2048   16x16/Conv0 512 2359808       16x16/Conv1_down 512 2359808
FromRGB_32 512 2048   32x32/Conv0 512 2359808       32x32/Conv1_down 512 2359808
FromRGB_64 256 1024   64x64/Conv0 256 590080        64x64/Conv1_down 512 1180160
FromRGB_128 128 512   128x128/Conv0 128 147584      128x128/Conv1_down 256 295168
FromRGB_256 64 256    256x256/Conv0 64 36928        256x256/Conv1_down 128 73856
FromRGB_512 32 128    512x512/Conv0 32 9248         512x512/Conv1_down 64 18496
FromRGB_1024 16 64    1024x1024/Conv0 16 2320       1024x1024/Conv1_down 32 4640
"""


def published(table: str, levels: int) -> list[list[tuple[int, int]]]:
    """(channels, parameters) of the three layers of each resolution."""
    rows = [line.split() for line in table.strip().splitlines()[:levels]]
    return [[(int(row[i + 1]), int(row[i + 2])) for i in (0, 3, 6)] for row in rows]


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_generator(resolution=16, **kwargs) -> StyleGANGenerator:
    """Noise strength and constant are random, as after some training; initially they are 0 and 1."""
    options = {"latent_size": 16, "style_size": 12, "mapping_layers": 2, "channel_base": 64, "channel_max": 8, **kwargs}
    generator = StyleGANGenerator(resolution, **options).eval()
    for name, parameter in generator.named_parameters():
        if "noise_strength" in name or name == "synthesis.constant":
            torch.nn.init.normal_(parameter)
    return generator


def small_discriminator(resolution=16, **kwargs) -> StyleGANDiscriminator:
    return StyleGANDiscriminator(resolution, **{"channel_base": 64, "channel_max": 8, **kwargs})


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("resolution", "total"), [(128, 25_843_858), (1024, 26_219_627)])
def test_generator_has_the_published_layers(resolution, total):
    with torch.device("meta"):
        generator = StyleGANGenerator(resolution)
    synthesis, levels = generator.synthesis, int(math.log2(resolution)) - 1
    layers = [
        [
            (layer.bias.numel(), count(layer) + (synthesis.constant.numel() if i == 0 else 0))
            for i, layer in enumerate(synthesis.layers[2 * level : 2 * level + 2], 2 * level)
        ]
        + [(3, count(synthesis.to_image[level]))]
        for level in range(levels)
    ]
    assert layers == published(PUBLISHED_G, levels)
    assert [count(layer) for layer in generator.mapping.layers] == [262_656] * 8
    assert len(synthesis.layers) == 2 * math.log2(resolution) - 2
    assert count(generator) == total


@pytest.mark.parametrize(("resolution", "total"), [(128, 22_941_313), (1024, 23_087_249)])
def test_discriminator_has_the_published_layers(resolution, total):
    with torch.device("meta"):
        network = StyleGANDiscriminator(resolution)
    layers = [[network.from_image[0], network.last, network.hidden]]
    layers += [list(row) for row in zip(network.from_image[1:], network.first, network.second, strict=True)]
    assert [[(row.bias.numel(), count(row)) for row in rows] for rows in layers] == published(PUBLISHED_D, len(layers))
    assert count(network) == total


def test_meshgan_generators_at_128():
    """Both generators at 256² (14 layers); 12 + 3 channels for shapes and texture."""
    with torch.device("meta"):
        thing, background = StyleGANGenerator(256, 15), StyleGANGenerator(256, 3)
    assert len(thing.synthesis.layers) == 14
    assert count(background) == 25_843_858 + 139_520 + 102_656 + 195
    widths = [512, 512, 512, 512, 256, 128, 64]
    assert count(thing) == count(background) + 12 * sum(width + 1 for width in widths) == 26_116_265


def test_equalized_weights():
    """c = gain / sqrt(fan in): sqrt(2 / 8) = 0.5, sqrt(2 / (2 * 9)) = 1 / 3; the mapping network has rate 0.01."""
    linear = EqualizedLinear(8, 1)
    torch.nn.init.ones_(linear.weight)
    assert linear(torch.ones(1, 8)).item() == pytest.approx(8 * 0.5)
    convolution = EqualizedConv2d(2, 1, 3)
    torch.nn.init.ones_(convolution.weight)
    assert convolution(torch.ones(1, 2, 3, 3))[0, 0, 1, 1].item() == pytest.approx(18 / 3)
    assert convolution(torch.ones(1, 2, 3, 3))[0, 0, 0, 0].item() == pytest.approx(8 / 3)  # zero padding

    slow = EqualizedLinear(8, 1, lr_multiplier=0.01)
    torch.nn.init.ones_(slow.weight)
    torch.nn.init.ones_(slow.bias)
    assert slow(torch.ones(1, 8)).item() == pytest.approx(0.01 * (8 * 0.5 + 1))
    assert EqualizedLinear(500, 500, lr_multiplier=0.01).weight.std().item() == pytest.approx(100, rel=0.01)
    assert EqualizedLinear(500, 500).weight.std().item() == pytest.approx(1, rel=0.01)


def test_one_adam_step_moves_all_layers_equally():
    """Each effective weight moves by c lr for any width, and by a hundredth of that in the mapping network."""
    for layer, moved in ((EqualizedLinear(8, 1), 1e-3 * 0.5), (EqualizedLinear(8, 1, lr_multiplier=0.01), 1e-5 * 0.5)):
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        before = layer.weight * layer.scale
        layer(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        assert torch.allclose(before - layer.weight * layer.scale, torch.full((1, 8), moved), rtol=0.02)


def test_strided_convolutions_match_the_published_layers():
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    up = EqualizedConv2d(3, 5, 3, resample="up").double()
    assert torch.allclose(up(x), F.conv2d(upsample(x), up.weight * up.scale, padding=1))
    down = EqualizedConv2d(3, 5, 3, resample="down").double()
    assert torch.allclose(down(x), downsample(F.conv2d(x, down.weight * down.scale, padding=1)))


def test_blur():
    impulse = torch.zeros(1, 2, 4, 4)
    impulse[0, 1, 1, 0] = 16
    expected = torch.tensor([[2.0, 1, 0, 0], [4, 2, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]])
    assert torch.equal(blur(impulse)[0, 1], expected)
    assert blur(impulse)[0, 0].abs().max() == 0
    x = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(blur, x) and torch.autograd.gradgradcheck(lambda x: blur(x) ** 2, x)


def test_adain_by_hand():
    """Mean 3, variance 5 in one channel; mean 1, variance 0 in the other."""
    layer = AdaIN(2, 1)
    with torch.no_grad():
        layer.style.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    x = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    y = layer(x, torch.tensor([[0.5]]))  # scales 1.5 and 2, shifts 1.5 and 2
    first = 1.5 + 1.5 / math.sqrt(5) * torch.tensor([[-3.0, -1.0], [1.0, 3.0]])
    assert torch.allclose(y[0, 0], first) and torch.allclose(y[0, 1], torch.full((2, 2), 2.0))


def test_layer_has_the_published_order():
    layer = StyledLayer(2, 3, 4, up=True)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x, w, noise = torch.randn(2, 2, 4, 4), torch.randn(2, 4), torch.randn(2, 1, 8, 8)
    y = F.conv2d(F.interpolate(x, scale_factor=2), layer.convolution.weight * math.sqrt(2 / 18), padding=1)
    y = blur(y) + layer.noise_strength[:, None, None] * noise + layer.bias[:, None, None]
    y = F.instance_norm(F.leaky_relu(y, 0.2), eps=1e-8)
    style = F.linear(w, layer.adain.style.weight / 2, layer.adain.style.bias)[..., None, None]
    assert torch.allclose(layer(x, w, noise), y * (1 + style[:, :3]) + style[:, 3:], atol=1e-5)


def test_mapping_network():
    z = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(pixel_norm(z), z / math.sqrt(12.5))
    mapping = StyleGANGenerator(8, latent_size=64, style_size=64, channel_max=8).mapping
    z = torch.randn(32, 64)
    assert torch.allclose(mapping(z), mapping(5 * z), atol=1e-4)
    assert 0.3 < mapping(z).std() < 3  # eight layers at He's scale preserve the signal


def test_minibatch_stddev_by_brute_force():
    x = torch.randn(8, 3, 2, 2)
    y = minibatch_stddev(x)
    assert y.shape == (8, 4, 2, 2) and torch.equal(y[:, :3], x)
    for group in ([0, 2, 4, 6], [1, 3, 5, 7]):
        deviations = []
        for c in range(3):
            for i in range(2):
                for j in range(2):
                    values = [x[n, c, i, j].item() for n in group]
                    mean = sum(values) / 4
                    deviations.append(math.sqrt(sum((v - mean) ** 2 for v in values) / 4 + 1e-8))
        expected = torch.full((4, 2, 2), sum(deviations) / 12)
        assert torch.allclose(y[group, 3], expected, atol=1e-6)
    assert minibatch_stddev(x[:3])[0, 3, 0, 0] == minibatch_stddev(x[:3], 3)[2, 3, 1, 1]  # fewer than a group
    assert minibatch_stddev(x[:1])[0, 3].max() == pytest.approx(1e-4)
    with pytest.raises(InputError, match=r"a batch of 6 images does not divide into groups of 4 .* multiple of 4"):
        minibatch_stddev(x[:6])


def test_generator_fades_in():
    generator, z = small_generator(), torch.randn(2, 16)
    old = generator(z, 8, noise="fixed")
    new = generator(z, 16, noise="fixed")
    assert old.shape == (2, 3, 8, 8) and new.shape == (2, 3, 16, 16)
    assert torch.equal(generator(z, 16, 0.0, noise="fixed"), upsample(old))
    assert torch.equal(generator(z, noise="fixed"), new)
    assert torch.allclose(generator(z, 16, 0.25, noise="fixed"), 0.75 * upsample(old) + 0.25 * new, atol=1e-5)


def test_discriminator_fades_in():
    discriminator, images = small_discriminator(), torch.rand(4, 3, 16, 16)
    assert torch.allclose(discriminator(images, 0.0), discriminator(downsample(images)), atol=1e-6)
    logits = [discriminator(images, fade) for fade in (0.0, 0.5, 1.0)]
    assert torch.equal(logits[2], discriminator(images)) and not torch.allclose(logits[0], logits[2])
    assert logits[1].shape == (4,)
    blocks = fade_images(images, 0.0)
    assert torch.equal(blocks[..., ::2, ::2], blocks[..., 1::2, 1::2])
    assert torch.allclose(fade_images(images, 0.75), 0.25 * blocks + 0.75 * images)
    assert fade_images(images, 1) is images


def test_rejects_invalid_resolution_and_fade():
    generator, z = small_generator(), torch.randn(1, 16)
    for arguments, message in (
        ((32,), "resolution must be at most 16, got 32"),
        ((12,), "resolution must be a power of two of at least 4, got 12"),
        ((16, 1.5), "fade must be between 0 and 1"),
        ((4, 0.5), "fade .* 1 at the lowest resolution, got 0.5 at 4"),
    ):
        with pytest.raises(ValueError, match=message):
            generator(z, *arguments, noise="zero")
    with pytest.raises(ValueError, match="resolution must be at most 16, got 32"):
        small_discriminator()(torch.rand(4, 3, 32, 32))


def test_noise_comes_only_from_the_generator():
    network, z = small_generator(), torch.randn(2, 16)
    state = torch.get_rng_state()
    first = network(z, generator=seeded())
    assert torch.equal(network(z, generator=seeded()), first)
    assert not torch.allclose(network(z, generator=seeded(1)), first)
    assert torch.equal(torch.get_rng_state(), state)

    noise = network.sample_noise(2, 16, seeded())
    assert [tuple(n.shape) for n in noise] == [(2, 1, r, r) for r in (4, 4, 8, 8, 16, 16)]
    assert torch.equal(network(z, noise=noise), first)
    assert torch.allclose(network(z[1:], noise=[n[1:] for n in noise]), first[1:], atol=1e-5)
    assert torch.equal(network(z, noise="zero"), network(z, noise=[0 * n for n in noise]))
    assert torch.equal(network(z, noise="fixed"), network(z, noise="fixed"))
    assert torch.equal(network.fixed_noise_2, small_generator().fixed_noise_2)
    assert not any("fixed" in name for name in network.state_dict())
    with pytest.raises(ValueError, match=r"pass a torch.Generator to sample the noise"):
        network(z)


def test_styles_mix_at_the_crossover():
    network, z, other = small_generator(), torch.randn(2, 16), torch.randn(2, 16)
    plain, second = network.styles(z, 16), network.styles(other, 16)
    assert plain.shape == (2, 6, 12)
    mixed = network.styles(z, 16, other, crossover=2)
    assert torch.equal(mixed[:, :2], plain[:, :2]) and torch.equal(mixed[:, 2:], second[:, 2:])
    assert torch.equal(network.styles(z, 16, other, crossover=6), plain)
    assert torch.equal(
        network(z, mix=other, crossover=2, noise="zero"), network.synthesis(mixed, 16, fade=1.0, noise=None)
    )
    with pytest.raises(ValueError, match="crossover must be between 1 and 4, got 5"):
        network.styles(z, 8, other, crossover=5)
    with pytest.raises(ValueError, match=r"pass a torch.Generator to sample the crossover"):
        network.styles(z, 8, other)


def test_crossovers_are_uniform_with_the_published_probability():
    network, generator = small_generator(), seeded()
    sampled = [network.sample_crossover(16, generator) for _ in range(4000)]
    for crossover in range(1, 6):
        assert sampled.count(crossover) / 4000 == pytest.approx(0.9 / 5, abs=0.02)
    assert sampled.count(6) / 4000 == pytest.approx(0.1, abs=0.02)
    assert network.sample_crossover(16, seeded(3)) == network.sample_crossover(16, seeded(3))


def test_truncation_pulls_toward_the_average():
    network, z = small_generator(64), torch.randn(2, 16)
    network.style_average.normal_()
    full = network.styles(z, 64)
    assert torch.equal(network.styles(z, 64, truncation=1.0), full)
    average = network.styles(z, 64, truncation=0.0, truncation_cutoff=None)
    assert torch.equal(average, network.style_average.expand(2, 10, 12))
    half = network.styles(z, 64, truncation=0.5)
    assert torch.allclose(half[:, :8], (full[:, :8] + network.style_average) / 2) and torch.equal(
        half[:, 8:], full[:, 8:]
    )
    images = network(z, truncation=0.0, truncation_cutoff=None, noise="zero")
    assert torch.allclose(images[0], images[1], atol=1e-5)


def test_average_style_moves_only_in_training():
    network, z = small_generator(8), torch.randn(4, 16)
    network(z, noise="zero")
    assert not network.style_average.any()
    network.train()(z, noise="zero")
    mean = network.mapping(z).mean(0)
    assert torch.allclose(network.style_average, 0.005 * mean)
    assert "style_average" in network.state_dict()


def test_gradients_reach_every_weight():
    generator, discriminator = small_generator(), small_discriminator()
    for resolution in (4, 8, 16):
        images = generator(torch.randn(4, 16), resolution, generator=seeded())
        discriminator(images.sigmoid()).sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_gradient_penalty_is_differentiable():
    """R1 needs a second derivative; compare it with finite differences of one weight."""
    discriminator, real = small_discriminator(8).double(), torch.rand(4, 3, 8, 8, dtype=torch.double)

    def penalty() -> torch.Tensor:
        x = real.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x, 0.5).sum(), x, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    weight = discriminator.second[0].weight
    (exact,) = torch.autograd.grad(penalty(), weight)
    values = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight[0, 0, 1, 1] += step
        values.append(penalty().item())
        with torch.no_grad():
            weight[0, 0, 1, 1] -= step
    assert exact[0, 0, 1, 1].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)
