"""Coloured renders for the classifier of renders_color, and its losses by property."""

import colorsys

import numpy as np
import pytest
import torch

from datamodules import ColoredRenderClassesDataModule
from datamodules.renders.colored import BACKGROUNDS, COLORS, HUES, TEXTURES, ColoredRenders, colorize, sample_color
from datamodules.shapes import ProceduralShapes
from lightning_modules import RenderClassifierModule
from networks import RenderClassifier
from renderers import OpenGLRenderer, ViewDistribution


@pytest.fixture
def data(tmp_path) -> ColoredRenderClassesDataModule:
    shapes = [
        {name: ProceduralShapes(name, count=4, voxel_size=16, split=split) for name in ("chair", "table")}
        for split in ("train", "test")
    ]
    return ColoredRenderClassesDataModule(
        *shapes,
        OpenGLRenderer(16, backend="moderngl"),
        ViewDistribution(),
        images_per_class=4,
        validation_images_per_class=3,
        batch_size=4,
        total_kimg=0.016,
        cache_dir=str(tmp_path),
    )


def hsv(color: np.ndarray) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*map(float, color))
    return 360 * hue, saturation, value


@pytest.mark.parametrize("name", COLORS)
def test_colors_have_the_hue_and_saturation_of_their_name(name):
    rng = np.random.default_rng(0)
    for hue, saturation, value in (hsv(sample_color(name, rng)) for _ in range(50)):
        if name == "gray":
            assert saturation <= 0.081
        else:
            assert abs((hue - HUES[name.removeprefix("pale_")] + 180) % 360 - 180) < 9
            assert (0.19 < saturation < 0.46) if name.startswith("pale_") else saturation > 0.64
        assert 0.34 < value <= 1


def test_labels_name_the_colour_of_surface_and_background():
    shade = np.ones((8, 8), np.float32)
    alpha = np.zeros((8, 8), np.float32)
    alpha[2:6, 2:6] = 1
    seen = set()
    for seed in range(60):
        image, (background, color, texture) = colorize(shade * alpha, alpha, np.random.default_rng(seed))
        seen.add((BACKGROUNDS[background] == "black", TEXTURES[texture]))
        hue, saturation, _ = hsv(image[:, 3, 3])
        name = COLORS[color]
        assert name == "gray" or abs((hue - HUES[name.removeprefix("pale_")] + 180) % 360 - 180) < 10
        assert (saturation < 0.09) == (name == "gray")
        assert (image[:, 0, 0].max() == 0) == (BACKGROUNDS[background] == "black")
    assert len(seen) == 2 * len(TEXTURES)


def test_classes_and_batches(data):
    assert len(data.class_names) == len(BACKGROUNDS) + len(COLORS) + 2 + len(TEXTURES)
    assert data.class_names == sorted(data.class_names)
    data.prepare_data()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.uint8 and labels.shape == (4, 4)
    held_out = [labels for _, labels in data.val_dataloader()]
    assert torch.cat(held_out)[:, 2].tolist() == [0, 0, 0, 1, 1, 1]  # property shape


def test_training_images_are_new_and_repeatable(data):
    data.prepare_data()
    batches = [list(data.train_dataloader()) for _ in range(2)]
    assert all(torch.equal(x, y) for a, b in zip(*batches, strict=True) for x, y in zip(a, b, strict=True))
    images = torch.cat([images for images, _ in batches[0]])
    assert len(torch.unique(images, dim=0)) == 16  # of 8 renders


def test_object_fills_more_of_the_image_when_enlarged():
    render = np.zeros((1, 2, 16, 16), np.uint8)
    render[:, :, 4:12, 4:12] = 255
    sizes = {int((ColoredRenders(render, np.zeros(1, int), 0, True)[i][0] > 0).any(0).sum()) for i in range(60)}
    assert 64 in sizes and 144 <= max(sizes)


def test_loss_is_the_sum_over_properties(data):
    torch.manual_seed(0)
    network = RenderClassifier(data.class_names, width=4, num_features=8, channels=3)
    module = RenderClassifierModule(network)
    assert dict(module.properties) == {"background": 18, "color": 17, "shape": 2, "texture": 4}
    logits = module.split_logits(torch.arange(41.0)[None])
    assert [x.shape[1] for x in logits] == [18, 17, 2, 4] and logits[2].tolist() == [[35, 36]]
    assert dict(RenderClassifierModule(RenderClassifier(["a", "b"])).properties) == {"": 2}
