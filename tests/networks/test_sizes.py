"""Sizes that a constructor accepts work in the forward pass; all others are refused at construction."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import networks
from networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    InceptionV3,
    MeshGenerator,
    RenderClassifier,
    RenderNet,
    ShadingNet,
    StyleGANDiscriminator,
    StyleGANGenerator,
    VoxelGenerator,
)
from renderers import InputError

SIZES = [-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 18, 33]
STYLEGAN = {"latent_size": 3, "style_size": 3, "mapping_layers": 1, "channel_base": 4, "channel_max": 4}
RANDOM = torch.Generator()


def from_latents(network: Any, *size: int, **options) -> None:
    z = torch.randn(2, network.latent_size)
    assert network(z, **options).shape == (2, *size)


def from_images(network: Any, channels: int, size: int, outputs: tuple[int, ...] = ()) -> None:
    assert network(torch.rand(2, channels, size, size)).shape == (2, *outputs)


def rendernet(n: RenderNet) -> None:
    image = n(torch.rand(1, 1, *[n.lattice_size] * 3))
    assert image.shape == (1, n.trunk[-2].out_channels, n.image_size, n.image_size)


def mesh(n: MeshGenerator) -> None:
    scene = n(torch.randn(2, n.latent_size), mix=torch.randn(2, n.latent_size), generator=RANDOM)
    assert scene.background.shape == (2, 3, n.image_size, n.image_size)
    assert scene.mesh.vertices.shape == (2, n.image_size**2, 3)


# Of each class: arguments of a small network, the arguments to vary, and the forward pass.
CASES: dict[type[nn.Module], tuple[dict[str, Any], str, Callable]] = {
    DCGANDiscriminator: (
        {"image_size": 8, "width": 2},
        "image_size channels width",
        lambda n: from_images(n, n.channels, n.image_size),
    ),
    DCGANGenerator: (
        {"image_size": 8, "latent_size": 3, "width": 2},
        "image_size latent_size width channels",
        lambda n: from_latents(n, n.channels, n.image_size, n.image_size),
    ),
    InceptionV3: ({"classes": ["a"], "image_size": 75}, "channels", lambda n: from_images(n.eval(), 3, 9, (1,))),
    MeshGenerator: ({"image_size": 4, **STYLEGAN}, "image_size latent_size pyramid_levels style_size", mesh),
    RenderClassifier: (
        {"classes": ["a"], "width": 2, "num_features": 2},
        "width num_features channels",
        lambda n: from_images(n, 1, 9, (1,)),
    ),
    RenderNet: (
        {"lattice_size": 16, "image_size": 16, "width": 2, "channels_3d": (1, 1, 1), "blocks_3d": 0, "blocks_2d": 0},
        "lattice_size image_size width blocks_3d blocks_2d trunk_size out_channels",
        rendernet,
    ),
    ShadingNet: (
        {"width": 2},
        "in_channels width out_channels",
        lambda n: from_images(n, n.layers[0].in_channels, 3, (n.layers[-2].out_channels, 3, 3)),
    ),
    StyleGANDiscriminator: (
        {"resolution": 8, "channel_base": 4, "channel_max": 4, "stddev_group": 2},
        "resolution channels channel_base channel_max",
        lambda n: from_images(n, n.channels, n.resolution),
    ),
    StyleGANGenerator: (
        {"resolution": 8, **STYLEGAN},
        "resolution out_channels latent_size style_size mapping_layers channel_base channel_max",
        lambda n: from_latents(
            n, n.out_channels, n.resolution, n.resolution, mix=torch.randn(2, n.latent_size), generator=RANDOM
        ),
    ),
    VoxelGenerator: (
        {"voxel_size": 8, "latent_size": 3, "width": 2, "out_channels": 4},
        "voxel_size latent_size width out_channels smoothing color_size",
        lambda n: from_latents(n, n.out_channels, n.voxel_size, n.voxel_size, n.voxel_size),
    ),
}


@pytest.mark.parametrize(
    ("network", "argument"), [(network, name) for network, case in CASES.items() for name in case[1].split()]
)
def test_accepted_sizes_work_and_others_are_refused(network, argument):
    base, _, forward = CASES[network]
    accepted = 0
    for size in SIZES:
        try:
            built = network(**{**base, argument: size})
        except InputError:
            continue
        forward(built)
        accepted += 1
    assert 0 < accepted < len(SIZES)


def test_rendernet_works_with_every_lattice_and_trunk_that_it_accepts():
    base, _, forward = CASES[RenderNet]
    accepted = set()
    for lattice in SIZES:
        for trunk in SIZES:
            try:
                network = RenderNet(**{**base, "lattice_size": lattice, "trunk_size": trunk})
            except InputError:
                continue
            forward(network)
            accepted.add((lattice, trunk))
    assert accepted == {(8, 4), (16, 4), (16, 8)}


@pytest.mark.parametrize("size", [74, 75, 76, 81, 90])
def test_inception_works_with_every_size_that_it_accepts(size):
    try:
        network = InceptionV3(["a"], image_size=size).eval()
    except InputError:
        assert size == 74
        return
    pooled, spatial = network.pooled_and_spatial(torch.rand(1, 1, 9, 9))
    assert pooled.shape == (1, network.num_features) and spatial.shape == (1, network.num_spatial_features)


def test_classifiers_without_classes_are_refused():
    for classifier in (InceptionV3, RenderClassifier):
        with pytest.raises(InputError, match="the number of classes must be at least 1, not 0"):
            classifier([])


def test_every_network_is_tested():
    public = {getattr(networks, name) for name in networks.__all__}
    augmentations = {networks.DiffAugment, networks.AdaptiveAugment}
    modules = {x for x in public if isinstance(x, type) and issubclass(x, nn.Module)}
    assert modules - augmentations == set(CASES)
