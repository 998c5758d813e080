"""The extractor renders_color orders changes of colour; renders_small does not see them."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import ChanterelleDataModule
from datamodules.renders.shapenet import VoxelCache, render_shapes
from datamodules.shapes import CorruptedShapes, ProceduralShapes, ShapeSource
from metrics import ImageFID, fid_between, load_extractor
from renderers import InputError, OpenGLRenderer, ViewDistribution

CHANTERELLES = Path(__file__).parents[3] / "shared" / "data" / "chanterelle"
COUNT, SIZE = 300, 64
WARM, COLD = (0.0, 0.2), (0.5, 0.7)  # ranges of hue


def discs(seed: int, hues: tuple[float, float] = WARM) -> Tensor:
    """Return shaded discs with a stripe in front of plain backgrounds, unlike any training image, (N, 3, S, S) bytes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    images = []
    for _ in range(COUNT):
        disc, stripe, behind = (
            np.array(colorsys.hsv_to_rgb(rng.uniform(*hues), rng.uniform(0.4, 0.9), rng.uniform(0.4, 1)))[:, None, None]
            for _ in range(3)
        )
        radius, (a, b) = rng.uniform(0.15, 0.35), rng.uniform(-0.1, 0.1, 2)
        shade = np.sqrt(np.clip(1 - ((x - a) ** 2 + (y - b) ** 2) / radius**2, 0, 1))
        surface = np.where(np.abs(x - a) < radius / 4, stripe, disc) * shade
        images.append(np.where(shade > 0, surface, 0.5 * behind))
    return torch.from_numpy((np.stack(images) * 255).round().astype(np.uint8))


def rotate_hue(images: Tensor, degrees: float) -> Tensor:
    """Rotate colours about the grey axis."""
    turn = np.deg2rad(degrees)
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.cross(np.eye(3), axis)
    matrix = np.cos(turn) * np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * np.outer(axis, axis)
    rotated = torch.einsum("ij,bjhw->bihw", torch.from_numpy(matrix), images.double())
    return rotated.round().clamp(0, 255).byte()


def grey(images: Tensor) -> Tensor:
    return images.double().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)


CHANGES = {
    "permuted channels": lambda images: images[:, [1, 2, 0]],
    "red and blue swapped": lambda images: images[:, [2, 1, 0]],
    "hue + 30°": lambda images: rotate_hue(images, 30),
    "hue + 60°": lambda images: rotate_hue(images, 60),
    "half saturated": lambda images: ((images.double() + grey(images).double()) / 2).byte(),
    "grey": grey,
}


def distances(extractor: str) -> dict[str, float]:
    """Return the FID of each changed set, and of an unchanged and a cold one, against other images of the same kind."""
    network, real, fake = load_extractor(extractor), discs(0), discs(1)
    sets = {"floor": fake, "cold palette": discs(1, COLD)} | {name: change(fake) for name, change in CHANGES.items()}
    return {name: fid_between([real], [images], network) for name, images in sets.items()}


@pytest.mark.slow
def test_colour_changes_cost_more_than_the_floor():
    fid, grey_fid = distances("renders_color"), distances("renders_small")
    print(*(f"\n{name}: {value:.1f}, renders_small {grey_fid[name]:.1f}" for name, value in fid.items()))
    assert grey_fid["permuted channels"] == pytest.approx(
        grey_fid["floor"], abs=1e-3
    )  # the mean of the channels is the same
    floor = fid.pop("floor")
    assert min(fid.values()) > 4 * floor, (floor, fid)
    assert fid["hue + 30°"] < fid["hue + 60°"] < fid["cold palette"]
    assert fid["half saturated"] < fid["grey"]


@pytest.mark.slow
def test_shape_changes_cost_more_than_the_floor_in_one_colour():
    chairs, tables = (ProceduralShapes(name, voxel_size=32, seed=1, split="test") for name in ("chair", "table"))
    renderer, views = OpenGLRenderer(SIZE, backend="moderngl"), ViewDistribution((0, 360), (-30, 60))
    orange = np.array([1.0, 0.55, 0.2])[:, None, None]

    def renders(shapes: ShapeSource, first: int) -> Tensor:
        grey = render_shapes(VoxelCache(shapes), renderer, views, 0, list(range(first, first + COUNT)))
        return torch.from_numpy((grey * orange).round().astype(np.uint8))

    real, network = renders(chairs, 0), load_extractor("renders_color")
    sets = {"floor": chairs, "damaged": CorruptedShapes(chairs, seed=1), "table": tables}
    fid = {name: fid_between([real], [renders(shapes, COUNT)], network) for name, shapes in sets.items()}
    print({name: round(value, 2) for name, value in fid.items()})
    assert 4 * fid["floor"] < fid["damaged"] and 12 * fid["floor"] < fid["table"]


@pytest.mark.skipif(not CHANTERELLES.is_dir(), reason="the Chanterelle photographs are not here")
def test_chanterelles_with_permuted_channels_are_far_away():
    data = ChanterelleDataModule(CHANTERELLES, image_size=64, channels=3)
    images = data.reference()
    figures = {}
    for name in ("renders_small", "renders_color"):
        fid = ImageFID(load_extractor(name), kid_subset=data.kid_subset)
        fid.update(images, real=True)
        fid.update(images[:, [2, 1, 0]], real=False)
        figures[name] = fid.compute_all()
    print(figures)
    assert abs(figures["renders_small"]["fid"]) < 1e-3 and figures["renders_small"]["kid"] < 0.01
    color = figures["renders_color"]
    assert color["fid"] > 1 and color["kid"] > 0.1 and color["kid"] > 10 * color["kid_std"]


def test_grey_images_have_the_same_features_in_one_and_three_channels():
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    network = load_extractor("renders_color")
    assert network.sees_color and torch.equal(network(images), network(images.expand(-1, 3, -1, -1)))


def test_extractors_know_whether_they_see_colour():
    load_extractor("renders_color").check_color()
    with pytest.raises(InputError, match=r"set extractor to renders_color or imagenet"):
        load_extractor("renders_small").check_color()
