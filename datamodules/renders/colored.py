"""Coloured and textured renders in front of backgrounds, labelled with each property, for an extractor that sees colour."""

from __future__ import annotations

import colorsys
import math
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.renders.cache import RenderCache
from datamodules.renders.labelled import RenderClassesDataModule
from datamodules.renders.shapenet import VoxelCache, sample_views
from renderers import Renderer, ViewDistribution, VoxelGrid
from utils.files import cache_key

COLORED_VERSION = 1  # increase when a change alters the renders of the same shapes
HUES = {"red": 0, "orange": 30, "yellow": 55, "green": 120, "cyan": 180, "blue": 225, "purple": 275, "magenta": 320}
COLORS = sorted(["gray", *HUES, *(f"pale_{hue}" for hue in HUES)])
BACKGROUNDS = sorted(["black", *COLORS])
TEXTURES = ("checks", "clouds", "plain", "stripes")
Pattern = Float[np.ndarray, "S S"]


class ColoredRenderClassesDataModule(RenderClassesDataModule):
    """Renders of classes of shapes, with random colours, textures and backgrounds, labelled with each of the four.

    Features that classify color, texture, background and shape at once depend on hue, saturation, texture and geometry.
    Batches are ``[images (B, 3, S, S), labels (B, 4)]``: one label for each property in alphabetical order, which indexes
    its values in alphabetical order. Half of the images have a black background, like renders.

    Shapes are rendered once, without colour, and cached with their masks. Colours and the object's size in the image are
    sampled anew for every training image, a function of the seed and the image's number.

    Args:
        **options: see :class:`RenderClassesDataModule`; their classes are the values of the property ``shape``.
    """

    @property
    def class_names(self) -> list[str]:
        """Names ``property/value`` in alphabetical order."""
        properties = {"background": BACKGROUNDS, "color": COLORS, "shape": self.shape_names, "texture": TEXTURES}
        return [f"{name}/{value}" for name, values in properties.items() for value in values]

    @property
    def shape_names(self) -> list[str]:
        return sorted(self.classes)

    def caches(self) -> list[RenderCache]:
        return [self._cache(name, train) for train in (True, False) for name in self.shape_names]

    def train_dataloader(self) -> DataLoader:
        return self.training_loader(self._colored(train=True), None)

    def val_dataloader(self) -> DataLoader:
        dataset = self._colored(train=False)
        return self.evaluation_loader(dataset, len(dataset.renders))

    def _colored(self, train: bool) -> ColoredRenders:
        renders = [self._cache(name, train).load() for name in self.shape_names]
        labels = np.repeat(np.arange(len(renders)), self._count(train))
        return ColoredRenders(np.concatenate(renders), labels, 2 * self.seed + (0 if train else 1), shuffle=train)

    def _cache(self, name: str, train: bool) -> RenderCache:
        shapes = (self.classes if train else self.validation_classes)[name]
        count, seed = self._count(train), 2 * self.seed + (0 if train else 1)
        key = cache_key(COLORED_VERSION, shapes.cache_key(), self.renderer.cache_key(), self.views, seed, count)
        return RenderCache(
            self.cache_folder(self.cache_dir) / "renders" / key,
            count,
            (2, self.renderer.image_size, self.renderer.image_size),
            partial(_render_with_masks, VoxelCache(shapes), self.renderer, self.views, seed),
            f"rendering {name} {'training' if train else 'held-out'} images",
        )


def _render_with_masks(
    solids: VoxelCache, renderer: Renderer, views: ViewDistribution, seed: int, indices: list[int]
) -> UInt8[np.ndarray, "n 2 S S"]:
    """Render images of shapes as :func:`render_shapes` does, with their alpha as a second channel."""
    grids = torch.from_numpy(np.stack([solids[i % len(solids)] for i in indices]))[:, None].float()
    rendering = renderer(VoxelGrid(grids), sample_views(views, seed, indices))
    image = torch.cat([rendering.image, rendering.alpha], 1)
    return (image * 255).round().to(torch.uint8).cpu().numpy()


class ColoredRenders(Dataset):
    """Renders with random colours and sizes: image i is a function of (seed, i) alone.

    Args:
        renders: grey renders on black and their masks, ``(N, 2, S, S)``.
        shapes: the shape's label of each, ``(N,)``.
        seed: seed of colours, and of the order.
        shuffle: image i is a random render; otherwise it is render i.
    """

    def __init__(
        self, renders: UInt8[np.ndarray, "N 2 S S"], shapes: Int[np.ndarray, " N"], seed: int, shuffle: bool
    ) -> None:
        self.renders, self.shapes, self.seed, self.shuffle = renders, shapes, seed, shuffle

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 S S"], Int[Tensor, " 4"]]:
        rng = np.random.default_rng([self.seed, index])
        number = int(rng.integers(len(self.renders))) if self.shuffle else index
        shade, alpha = _enlarge(self.renders[number], rng.uniform(1, 1.7)).astype(np.float32) / 255
        image, labels = colorize(shade, alpha, rng)
        background, color, texture = labels
        label = torch.tensor([background, color, int(self.shapes[number]), texture])
        return torch.from_numpy((image * 255).round().astype(np.uint8)), label


def _enlarge(render: UInt8[np.ndarray, "2 S S"], zoom: float) -> UInt8[np.ndarray, "2 S S"]:
    """Enlarge the centre to the image's size: renders fill half of it, photographs may fill all of it."""
    size = render.shape[-1]
    edge = round(size * (1 - 1 / zoom) / 2)
    center = torch.from_numpy(render[None, :, edge : size - edge, edge : size - edge])
    return torch.nn.functional.interpolate(center, (size, size), mode="bilinear")[0].numpy()


def colorize(
    shade: Float[np.ndarray, "S S"], alpha: Float[np.ndarray, "S S"], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "3 S S"], tuple[int, int, int]]:
    """Give a grey render on black a random colour, texture and background.

    Args:
        shade: intensity in [0, 1], premultiplied by alpha.
        alpha: fraction of each pixel that the object covers.
        rng: source of all random numbers.

    Returns:
        The image, and the labels of background, color and texture.
    """
    size = len(shade)
    color, texture = COLORS[rng.integers(len(COLORS))], TEXTURES[rng.integers(len(TEXTURES))]
    surface = sample_color(color, rng)[:, None, None] * (1 - rng.uniform(0.4, 0.8) * pattern(texture, size, rng))
    image = surface * shade
    name = "black"
    if rng.random() < 0.5:
        name = COLORS[rng.integers(len(COLORS))]
        kind = TEXTURES[rng.integers(len(TEXTURES))]
        behind = sample_color(name, rng)[:, None, None] * (1 - rng.uniform(0, 0.6) * pattern(kind, size, rng))
        image = image + (1 - alpha) * behind
    labels = BACKGROUNDS.index(name), COLORS.index(color), TEXTURES.index(texture)
    return image.clip(0, 1).astype(np.float32), labels


def sample_color(name: str, rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """Return a random RGB colour in [0, 1] of the hue and saturation that ``name`` describes, of any brightness."""
    value = rng.uniform(0.35, 1)
    hue = HUES.get(name.removeprefix("pale_"), 0) + rng.uniform(-8, 8)
    if name == "gray":
        saturation = rng.uniform(0, 0.08)
    else:
        saturation = rng.uniform(0.2, 0.45) if name.startswith("pale_") else rng.uniform(0.65, 1)
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def pattern(kind: str, size: int, rng: np.random.Generator) -> Pattern:
    """Return a random pattern of one of :data:`TEXTURES`, in [0, 1]."""
    if kind == "plain":
        return np.zeros((size, size), np.float32)
    if kind == "clouds":
        cells = int(rng.integers(4, 12))
        noise = torch.from_numpy(rng.uniform(0, 1, (1, 1, cells, cells)).astype(np.float32))
        enlarged = torch.nn.functional.interpolate(noise, (size, size), mode="bicubic", align_corners=True)
        return enlarged[0, 0].clamp(0, 1).numpy()
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    angle, phase, waves = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi, 2), rng.uniform(4, 10)
    x, y = axis[None] - 0.5, axis[:, None] - 0.5
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    wave = np.sin(2 * math.pi * waves * along + phase[0])
    if kind == "checks":
        wave = wave * np.sin(2 * math.pi * waves * across + phase[1])
    return (0.5 + 0.5 * np.tanh(4 * wave)).astype(np.float32)
