import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from networks import MeshGenerator, sample_offsets
from networks.mesh_generator import blur_matrix, crop, limit_size, pyramid, unlimit_size
from networks.stylegan_layers import downsample, upsample
from renderers import Camera, InputError, SoftRasterizer, TriangleMesh, grid_mesh


def small(image_size=32, **kwargs) -> MeshGenerator:
    options = {
        "latent_size": 16,
        "style_size": 16,
        "mapping_layers": 2,
        "channel_base": 256,
        "channel_max": 16,
        **kwargs,
    }
    return MeshGenerator(image_size, **options)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(batch=2) -> torch.Tensor:
    return torch.randn(batch, 32, generator=seeded())


def test_sizes_match_section_6():
    generator = small()
    assert generator.sizes == [4, 8, 16, 32] and generator.latent_size == 32
    assert generator.object.out_channels == 15 and generator.background.out_channels == 3
    for size in (8, 32):
        scene = generator(latents(), size, generator=seeded())
        assert isinstance(scene.mesh, TriangleMesh) and len(scene) == 2
        assert scene.mesh.vertices.shape == (2, size**2, 3)
        assert scene.mesh.texture.shape == scene.full_background.shape == (2, 3, 2 * size, 2 * size)
        assert scene.background.shape == (2, 3, size, size)
        faces, uvs = grid_mesh(size)
        assert torch.equal(scene.mesh.faces, faces) and torch.equal(scene.mesh.uvs, uvs)
        assert generator(latents(), size, generator=seeded()).mesh.faces is scene.mesh.faces
        for colors in (scene.mesh.texture, scene.full_background):
            assert 0 <= colors.min() and colors.max() <= 1
    assert not any(name.startswith(("faces", "uvs", "disc")) for name in generator.state_dict())


def test_pyramid_by_hand():
    """An impulse: the result's middle is the square of the kernel's, 1 / (1 + 2 (e^-1/2 + e^-2 + e^-9/2)) for sigma 1."""
    images = torch.zeros(1, 4, 3, 65, 65, dtype=torch.double)
    images[0, 0, 0, 32, 32] = 1
    middle = 1 / (1 + 2 * (math.exp(-0.5) + math.exp(-2) + math.exp(-4.5)))
    summed = pyramid(images)
    assert summed[0, 0, 32, 32].item() == pytest.approx(middle**2)
    assert summed[0, 0, 32, 34].item() == pytest.approx(middle**2 * math.exp(-2))
    assert summed[0, 1:].abs().max() == 0
    assert pyramid(torch.ones(1, 4, 3, 16, 16)).allclose(torch.tensor(1.875))  # 1 + 1/2 + 1/4 + 1/8


@pytest.mark.parametrize("size", [8, 64])
def test_pyramid_matches_eq_13(size):
    images = torch.randn(2, 4, 3, size, size, dtype=torch.double)
    expected = np.zeros((2, 3, size, size))
    for k in range(4):
        sigma = 2**k
        blurred = ndimage.gaussian_filter(images[:, k].numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=3)
        expected += blurred / 2**k
    assert np.allclose(pyramid(images).numpy(), expected)


def test_blur_preserves_the_mean():
    for sigma in (0.5, 1.0, 3.0, 16.0):
        assert torch.allclose(blur_matrix(8, sigma).sum(0), torch.ones(8).double())
        assert torch.allclose(blur_matrix(8, sigma).sum(1), torch.ones(8).double())


def test_shapes_do_not_jump_when_a_resolution_starts_to_fade_in():
    """At fade 0 the images are upsampled, and twice the sigma in pixels blurs them equally."""
    images = torch.randn(4, 3, 16, 16)
    before = pyramid(images[None])
    stretched = (downsample(pyramid(upsample(images)[None], 2.0)) - before).std()
    unstretched = (downsample(pyramid(upsample(images)[None])) - before).std()
    assert stretched < 0.1 * before.std() and unstretched > 0.3 * before.std()
    generator = small()
    images = torch.randn(1, 15, 32, 32)
    for fade, stretch in ((0.0, 2.0), (1.0, 1.0)):
        raw = pyramid(downsample(images[:, :12]).unflatten(1, (4, 3)), stretch)
        assert torch.allclose(
            generator.shape(images[:, :12], fade), limit_size(generator.disc_16 + 0.02 * raw, 1.3), atol=1e-6
        )


def test_size_constraint_by_hand():
    """|s| = 0.5 and 5: 1.3 tanh(0.5) = 0.60075, 1.3 tanh(5) = 1.29988."""
    points = torch.tensor([[0.3, 0.4, 0.0], [-3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]).T.reshape(3, 1, 3).requires_grad_()
    limited = limit_size(points, 1.3)
    expected = torch.tensor([[0.36045, 0.48060, 0.0], [-0.77993, 0.0, 1.03990], [0.0, 0.0, 0.0]])
    assert torch.allclose(limited[:, 0].T, expected, atol=1e-5)
    limited.sum().backward()
    assert torch.allclose(points.grad[:, 0, 2], torch.full((3,), 1.3))  # smooth at the origin
    assert torch.allclose(limit_size(unlimit_size(expected[:1].T[..., None], 1.3), 1.3), expected[:1].T[..., None])


def test_shape_images_deform_a_flat_disc():
    generator = small(16, initial_radius=0.6)
    vertices = generator.shape(torch.zeros(1, 12, 32, 32))
    assert vertices[0, 2].abs().max() == 0
    assert torch.allclose(vertices[0, :, 0, 15], torch.tensor([0.6, 0.6, 0.0]), atol=1e-6)  # top right
    bulging = small(16, initial_radius=0.6, initial_bulge=0.3).shape(torch.zeros(1, 12, 32, 32))
    assert bulging[0, 2, 8, 8].item() == pytest.approx(0.3, abs=0.01) and bulging[0, 2, 0, 8] == 0
    with pytest.raises(InputError, match=r"must stay within max_size 1.3"):
        small(16, initial_radius=2.0)


def test_ablations():
    """Figure 3: no pyramid, no size constraint."""
    generator = small(16, pyramid_levels=0, max_size=None)
    assert generator.object.out_channels == 6
    images = 1000 * torch.randn(1, 3, 32, 32)
    assert torch.allclose(generator.shape(images), generator.disc_16 + 0.02 * downsample(images))
    assert small(16).shape(1000 * torch.randn(1, 12, 32, 32)).norm(dim=1).max() <= 1.3 + 1e-5


def test_background_is_cropped_at_the_offsets():
    images = torch.rand(3, 3, 16, 16)
    offsets = torch.tensor([[0, 0], [8, 3], [5, 8]])
    cut = crop(images, offsets)
    assert torch.equal(cut[0], images[0, :, :8, :8]) and torch.equal(cut[1], images[1, :, 8:, 3:11])
    assert torch.equal(crop(images, None)[2], images[2, :, 4:12, 4:12])
    with pytest.raises(ValueError, match="offsets must be between 0 and 8"):
        crop(images, torch.tensor([[0, 0], [9, 0], [0, 0]]))
    sampled = sample_offsets(2000, 8, seeded())
    assert torch.equal(sampled, sample_offsets(2000, 8, seeded()))
    assert sampled.unique().tolist() == list(range(9))
    scene = small(8)(latents(3), offsets=offsets, generator=seeded())
    assert torch.equal(scene.background, crop(scene.full_background, offsets))


def test_object_and_background_are_independent():
    generator, z = small(8), latents()
    first = generator(z, noise="zero")
    other = generator(torch.cat([z[:, :16], -z[:, 16:]], 1), noise="zero")
    assert torch.equal(other.mesh.vertices, first.mesh.vertices) and torch.equal(other.mesh.texture, first.mesh.texture)
    assert not torch.allclose(other.full_background, first.full_background)


def test_randomness_comes_only_from_the_passed_generator():
    generator, z = small(8).eval(), latents()
    for name, parameter in generator.named_parameters():
        if "noise_strength" in name:
            torch.nn.init.normal_(parameter)
    state = torch.get_rng_state()
    first, same, other = (generator(z, mix=-z, generator=seeded(i)) for i in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(same.mesh.vertices, first.mesh.vertices) and torch.equal(same.background, first.background)
    assert not torch.allclose(other.mesh.vertices, first.mesh.vertices)
    with pytest.raises(ValueError, match=r"pass a torch.Generator to sample"):
        generator(z)

    stream = seeded()
    parts = [
        (n.sample_crossover(16, stream), n.sample_noise(2, 16, stream))
        for n in (generator.object, generator.background)
    ]
    given = generator(z, mix=-z, crossover=(parts[0][0], parts[1][0]), noise=(parts[0][1], parts[1][1]))
    assert torch.equal(given.mesh.vertices, first.mesh.vertices) and torch.equal(given.background, first.background)


def test_full_truncation_gives_the_average():
    generator = small(8).eval()
    scene = generator(latents(), truncation=0.0, noise="zero")
    assert torch.allclose(scene.mesh.vertices[0], scene.mesh.vertices[1], atol=1e-5)


def test_fade_starts_with_the_previous_texture():
    generator = small().eval()
    before, after = generator(latents(), 16, noise="fixed"), generator(latents(), 32, 0.0, noise="fixed")
    assert torch.allclose(after.mesh.texture, upsample(before.mesh.texture), atol=1e-6)
    assert torch.allclose(after.full_background, upsample(before.full_background), atol=1e-6)


def test_rejects_invalid_sizes():
    with pytest.raises(ValueError, match=r"size must be one of \[4, 8\], got 16"):
        small(8)(latents(), 16, noise="zero")
    with pytest.raises(ValueError, match="image_size must be a power of two of at least 4, got 24"):
        small(24)


@pytest.mark.parametrize("size", [16, 32])
def test_training_starts_with_one_disc_per_image(size):
    scene = small()(latents(4), size, generator=seeded())
    rendering = SoftRasterizer(32)(scene.mesh, Camera.orbit([0.0, 45.0, -45.0, 0.0], [0.0, 15.0, 0.0, -15.0], fov=10.0))
    assert rendering.image.shape == (4, 3, 32, 32) and rendering.image.isfinite().all()
    for i, silhouette in enumerate(rendering.alpha[:, 0] > 0.5):
        assert ndimage.label(silhouette)[1] == 1 and ndimage.label(~silhouette)[1] == 1  # one piece without a hole
        seen = math.pi * 8**2 * (math.cos(math.radians(45)) if i in (1, 2) else 1)  # radius 1/2 is 8 pixels
        assert silhouette.sum().item() == pytest.approx(seen, rel=0.3)


def test_gradients_reach_every_weight_through_the_rasterizer():
    generator = small(8)
    for name, parameter in generator.named_parameters():
        if "noise_strength" in name or name.endswith("constant"):
            torch.nn.init.normal_(parameter)  # initially the noise strength is 0 and the constant is uniform
    for size in (4, 8):
        scene = generator(latents(), size, 0.5, offsets=sample_offsets(2, size, seeded()), generator=seeded())
        camera = Camera.orbit([20.0, -30.0], 10.0, fov=10.0)
        image = SoftRasterizer(size)(scene.mesh, camera, scene.background).image
        (image * torch.randn(image.shape, generator=seeded())).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
