import pytest
import torch
import torch.nn.functional as F

from networks import DCGANDiscriminator, DCGANGenerator, RenderClassifier, RenderNet, VoxelGenerator
from networks.dcgan_layers import FirstConvTranspose3d, LastConvTranspose3d
from networks.prelu import PReLU
from networks.rendernet import HalvingConv3d
from renderers import InputError


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_voxel_generator_supports_any_power_of_two(size):
    generator = VoxelGenerator(size, latent_size=10, width=32)
    occupancy = generator(torch.randn(2, 10))
    assert occupancy.shape == (2, 1, size, size, size)
    assert 0 <= occupancy.min() and occupancy.max() <= 1


def test_voxel_generator_has_the_layers_of_3dgan():
    generator = VoxelGenerator()
    convolutions = [m for m in generator.layers if isinstance(m, torch.nn.ConvTranspose3d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in convolutions] == [
        (200, 512, 1),
        (512, 256, 2),
        (256, 128, 2),
        (128, 64, 2),
        (64, 1, 2),
    ]
    weights = sum(m.weight.numel() for m in convolutions)
    assert weights == pytest.approx(17.6e6, rel=0.01)  # as published


def test_voxel_generator_starts_at_the_initial_occupancy():
    occupancy = VoxelGenerator(16, 10, 64, initial_occupancy=0.1)(torch.randn(8, 10))
    assert occupancy.mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (FirstConvTranspose3d(5, 3, 4, 1, 0, bias=False), (2, 5, 1, 1, 1)),
        (LastConvTranspose3d(5, 1, 4, 2, 1), (2, 5, 3, 4, 6)),
        (LastConvTranspose3d(5, 4, 4, 2, 1), (2, 5, 3, 4, 6)),
        (LastConvTranspose3d(5, 1, 4, 2, 1), (0, 5, 3, 4, 6)),
    ],
)
def test_fast_transposed_convolutions_match_torch(layer, shape, memory_format):
    layer = layer.double().to(memory_format=memory_format)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=g).requires_grad_()
    plain = F.conv_transpose3d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    fast = layer(x)
    torch.testing.assert_close(fast, plain)
    upstream = torch.randn(plain.shape, dtype=torch.float64, generator=g)
    inputs = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, inputs, upstream) for y in (fast, plain)), strict=True):
        torch.testing.assert_close(a, b)


def test_voxel_generator_has_the_weights_of_plain_layers():
    """The random stream, the parameters' names and the state dict are those of torch's layers."""
    torch.manual_seed(3)
    generator = VoxelGenerator(16, 10, 8, out_channels=2)
    torch.manual_seed(3)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose3d):
            torch.nn.ConvTranspose3d(layer.in_channels, layer.out_channels, 4, bias=layer.bias is not None)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose3d):
            assert torch.equal(layer.weight, torch.nn.init.normal_(torch.empty(layer.weight.shape), 0.0, 0.02))
        elif isinstance(layer, torch.nn.BatchNorm3d):
            assert torch.equal(layer.weight, torch.nn.init.normal_(torch.empty(layer.weight.shape), 1.0, 0.02))
    assert [name for name, _ in generator.named_parameters()] == [
        "layers.0.weight",
        *("layers.1.weight", "layers.1.bias", "layers.3.weight"),
        *("layers.4.weight", "layers.4.bias", "layers.6.weight", "layers.6.bias"),
    ]


def test_voxel_generator_runs_in_half_precision():
    generator, z = VoxelGenerator(16, 10, 32).eval(), torch.randn(4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        half = generator(z)
    assert half.dtype == torch.bfloat16
    assert (half.float() - generator(z)).abs().max() < 0.01


@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_discriminator_supports_any_power_of_two(size):
    assert DCGANDiscriminator(size, channels=3, width=4)(torch.rand(3, 3, size, size)).shape == (3,)


def test_rejects_invalid_sizes():
    with pytest.raises(ValueError, match="voxel_size must be a power of two of at least 8, got 48"):
        VoxelGenerator(48)
    with pytest.raises(ValueError, match="image_size must be a power of two of at least 8, got 100"):
        DCGANDiscriminator(100)
    with pytest.raises(ValueError, match="trunk_size must be a half or a quarter of lattice_size 64, got 64"):
        RenderNet(64, 64, trunk_size=64)


def test_discriminator_layers_have_spectral_norm_one():
    discriminator = DCGANDiscriminator(16, width=8)
    for _ in range(50):
        discriminator(torch.rand(1, 1, 16, 16))
    discriminator.eval()
    for layer in discriminator.layers:
        if isinstance(layer, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_discriminator_is_constant_in_eval_mode():
    discriminator = DCGANDiscriminator(16, width=8).eval()
    image = torch.rand(1, 1, 16, 16)
    first = discriminator(image)
    discriminator.train()(image)
    assert not torch.equal(discriminator.eval()(image), first)
    second = discriminator(image)
    assert torch.equal(discriminator(image), second)


def test_halving_convolution_matches_the_strided_convolution():
    layer = HalvingConv3d(3)
    x = torch.randn(2, 1, 12, 12, 12)
    expected = F.conv3d(F.pad(x, (1, 2) * 3), layer.weight, layer.bias, stride=2)
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize(("lattice", "image", "trunk"), [(16, 16, None), (32, 32, 8), (32, 64, 16), (16, 8, None)])
def test_rendernet_supports_several_sizes(lattice, image, trunk):
    network = RenderNet(lattice, image, width=16, channels_3d=(2, 4, 4), trunk_size=trunk)
    rendered = network(torch.rand(2, 1, lattice, lattice, lattice))
    assert rendered.shape == (2, 1, image, image)


@pytest.mark.parametrize(("lattice", "trunk"), [(17, None), (33, None), (18, 4), (17, 8), (12, 4), (4, None), (0, 0)])
def test_rendernet_refuses_other_lattices(lattice, trunk):
    with pytest.raises(InputError, match=f"^lattice_size must be a power of two of at least 8, got {lattice}$"):
        RenderNet(lattice, 64, trunk_size=trunk)


def test_rendernet_has_the_blocks_of_the_paper():
    network = RenderNet(width=64)
    assert len(network.encoder[-1].blocks) == 2
    assert len(network.trunk[0].blocks) == 4
    assert network.projection[0].in_channels == 896  # 28 depths of 32 channels: 112 of 128 voxels, halved twice


def test_rendernet_starts_with_a_faint_image_and_learns():
    """With a plain initialization the output saturates to black and stays there."""
    torch.manual_seed(0)
    network = RenderNet(16, 16, width=32, channels_3d=(4, 8, 8))
    grids = torch.zeros(8, 1, 16, 16, 16)
    for i in range(8):
        grids[i, :, 4:12, 4 : 6 + i % 4, 3 + i // 2 : 12] = 1
    target = 0.8 * grids.amax(2)
    start = network(grids)
    assert 0.02 < start.mean() < 0.1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        loss = (network(grids) - target).square().sum((1, 2, 3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network(grids) - target).square().sum() / target.square().sum() < 0.2


def test_classifier_accepts_any_image():
    classifier = RenderClassifier(["a", "b"], width=4, num_features=8)
    assert classifier(torch.rand(2, 3, 100, 100)).shape == (2, 2)
    assert classifier.features(torch.rand(2, 1, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (64, 3), (128, 1)])
def test_image_generator_supports_any_power_of_two(size, channels):
    images = DCGANGenerator(size, latent_size=10, width=32, channels=channels)(torch.randn(2, 10))
    assert images.shape == (2, channels, size, size)
    assert 0 <= images.min() and images.max() <= 1
    with pytest.raises(ValueError, match="image_size must be a power of two of at least 8, got 100"):
        DCGANGenerator(100)


def test_image_generator_mirrors_the_discriminator():
    def channels(network: torch.nn.Module, kind: type) -> list[tuple[int, int]]:
        return [(m.in_channels, m.out_channels) for m in network.layers if isinstance(m, kind)]

    up = channels(DCGANGenerator(), torch.nn.ConvTranspose2d)
    down = channels(DCGANDiscriminator(), torch.nn.Conv2d)
    assert (
        [(b, a) for a, b in reversed(up[1:])] == down[:-1] == [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    )


def test_initial_occupancy_does_not_affect_colour():
    volume = VoxelGenerator(8, 10, 64, out_channels=4, initial_occupancy=0.1)(torch.randn(16, 10))
    assert volume[:, 0].mean().item() == pytest.approx(0.1, abs=0.02)
    assert volume[:, 1:].mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 4, 5, 3), (4, 3)])
def test_prelu_has_the_values_and_gradients_of_torch(shape):
    ours, theirs = PReLU(3), torch.nn.PReLU(3, init=0.2)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.5, -0.3, 1.2]))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    x[0, 0] = 0
    results = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        y = layer(given)
        results.append((y, *torch.autograd.grad(y.square().sum(), (given, layer.weight))))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
