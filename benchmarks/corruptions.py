"""Sets of chairs and of images that are wrong in a known way and to a known degree, for judging metrics of images.

Grids are ``[z, y, x]`` with y up. Lengths are in voxels of a 32³ grid and scale with the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, UInt8
from scipy import ndimage
from torch import Tensor

from datamodules.shapes.procedural.source import Category
from renderers import Lighting, ViewDistribution

Solid = Bool[np.ndarray, "D D D"]
ShapeCorruption = Callable[[Solid, np.random.Generator], Solid]
ImageCorruption = Callable[[Tensor], Tensor]
Y, X = 1, 2  # axes of a grid


@dataclass(frozen=True)
class Corruption:
    """One set of images. The defaults leave the chairs intact.

    Args:
        shape: corrupts one shape.
        share: probability with which a shape is corrupted.
        categories: image i shows a shape of category ``i mod len(categories)``.
        select: returns which of the N shapes the N images show.
        image: corrupts images ``(N, 1, S, S)``.
        views: viewpoints, if not those of the reference.
        lighting: lights, if not those of the reference.
    """

    shape: ShapeCorruption | None = None
    share: float = 1.0
    categories: tuple[Category, ...] = ("chair",)
    select: Callable[[Bool[np.ndarray, "N D D D"]], Int[np.ndarray, " N"]] | None = None
    image: ImageCorruption | None = None
    views: ViewDistribution | None = None
    lighting: Lighting | None = None

    @property
    def image_only(self) -> bool:
        """Whether the shapes are intact."""
        return not (self.image is None and self.views is None and self.lighting is None)

    def solids(self, intact: dict[Category, Bool[Tensor, "N D D D"]], seed: int) -> Bool[Tensor, "N D D D"]:
        """Return the set's shapes, made from N intact ones of each category. Shape i depends on (seed, i)."""
        chosen = [intact[name].numpy() for name in self.categories]
        solids = np.stack([chosen[i % len(chosen)][i] for i in range(len(chosen[0]))])
        if self.select is not None:
            solids = solids[self.select(solids)]
        if self.shape is not None:
            generators = [np.random.default_rng([seed, i]) for i in range(len(solids))]
            solids = np.stack(
                [self.shape(x, g) if g.random() < self.share else x for x, g in zip(solids, generators, strict=True)]
            )
        return torch.from_numpy(solids)


# Shapes


def unit(solid: Solid) -> int:
    """Return the length of a voxel of a 32³ grid in voxels of this grid."""
    return max(1, solid.shape[0] // 32)


def stray(probability: float) -> ShapeCorruption:
    """Occupy voxels anywhere in the cube."""
    return lambda solid, rng: solid | (rng.random(solid.shape) < probability)


def dropout(probability: float) -> ShapeCorruption:
    """Empty voxels of the shape."""
    return lambda solid, rng: solid & (rng.random(solid.shape) >= probability)


def balls(count: int, add: bool, radius: float = 2.5) -> ShapeCorruption:
    """Add balls anywhere in the cube, or remove balls centred in the shape."""

    def apply(solid: Solid, rng: np.random.Generator) -> Solid:
        size, scaled = solid.shape[0], radius * unit(solid)
        inside = np.argwhere(solid)
        grid = np.indices(solid.shape)
        result = solid.copy()
        for _ in range(count):
            center = rng.uniform(scaled, size - scaled, 3) if add else inside[rng.integers(len(inside))]
            ball = np.square(grid - np.reshape(center, (3, 1, 1, 1))).sum(0) <= scaled**2
            result = result | ball if add else result & ~ball
        return result

    return apply


def dilate(steps: int) -> ShapeCorruption:
    return lambda solid, _: ndimage.binary_dilation(solid, iterations=steps * unit(solid))


def erode(steps: int) -> ShapeCorruption:
    return lambda solid, _: ndimage.binary_erosion(solid, iterations=steps * unit(solid))


def half(axis: int, keep_upper: bool) -> ShapeCorruption:
    """Remove one half of the shape's extent along an axis."""

    def apply(solid: Solid, _: np.random.Generator) -> Solid:
        occupied = np.flatnonzero(np.moveaxis(solid, axis, 0).any((1, 2)))
        middle = (occupied[0] + occupied[-1] + 1) // 2
        index = np.arange(solid.shape[axis]).reshape([-1 if d == axis else 1 for d in range(3)])
        return solid & ((index >= middle) == keep_upper)

    return apply


def without_legs(solid: Solid, _: np.random.Generator) -> Solid:
    """Remove what is below the layer with the most voxels, which is the seat."""
    seat = int(solid.sum((0, X)).argmax())
    result = solid.copy()
    result[:, :seat] = False
    return result


def shift_upper_half(distance: int) -> ShapeCorruption:
    """Shift the upper half sideways."""

    def apply(solid: Solid, rng: np.random.Generator) -> Solid:
        upper = half(Y, True)(solid, rng)
        return (solid & ~upper) | _shifted(upper, distance * unit(solid))

    return apply


def _shifted(solid: Solid, distance: int) -> Solid:
    result = np.zeros_like(solid)
    result[..., distance:] = solid[..., : solid.shape[X] - distance]
    return result


def slices(period: int, keep: int) -> ShapeCorruption:
    """Keep ``keep`` of every ``period`` layers along x."""
    return lambda solid, _: solid & (np.arange(solid.shape[X]) // unit(solid) % period < keep)


def plates(solid: Solid, _: np.random.Generator) -> Solid:
    """Replace the shape by three parallel plates with its outline from the side."""
    result = np.zeros_like(solid)
    outline, middle, gap = np.any(solid, X, keepdims=True), solid.shape[X] // 2, 6 * unit(solid)
    for x in (middle - gap, middle, middle + gap):
        result[:, :, x : x + unit(solid)] = outline
    return result


def visual_hull(solid: Solid, _: np.random.Generator) -> Solid:
    """Return the largest shape with the same outlines along the three axes."""
    return np.any(solid, 0, keepdims=True) & np.any(solid, Y, keepdims=True) & np.any(solid, X, keepdims=True)


def rough(amount: float, cells: int = 16) -> ShapeCorruption:
    """Shift the surface by smooth noise of the given standard deviation."""

    def apply(solid: Solid, rng: np.random.Generator) -> Solid:
        distance = ndimage.distance_transform_edt(~solid) - ndimage.distance_transform_edt(solid)
        noise = ndimage.zoom(rng.standard_normal((cells,) * 3), solid.shape[0] / cells, order=1)
        return distance + amount * unit(solid) * noise < 0.5

    return apply


def smooth(sigma: float, threshold: float = 0.5) -> ShapeCorruption:
    """Threshold the blurred occupancy: thin parts disappear."""
    return lambda solid, _: ndimage.gaussian_filter(solid.astype(float), sigma * unit(solid)) > threshold


def coarse(factor: int) -> ShapeCorruption:
    """Reduce the resolution; a coarse voxel is occupied if half of its voxels are."""

    def apply(solid: Solid, _: np.random.Generator) -> Solid:
        size, step = solid.shape[0], factor * unit(solid)
        blocks = solid.reshape(size // step, step, size // step, step, size // step, step).mean((1, 3, 5)) >= 0.5
        return blocks.repeat(step, 0).repeat(step, 1).repeat(step, 2)

    return apply


def resize(y: float, x: float) -> ShapeCorruption:
    """Scale the shape about the centre of the cube, vertically by y and horizontally by x."""
    return _affine(np.diag([1 / x, 1 / y, 1 / x]))


def tilt(degrees: float) -> ShapeCorruption:
    """Rotate the shape about the x axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _affine(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def _affine(matrix: np.ndarray) -> ShapeCorruption:
    def apply(solid: Solid, _: np.random.Generator) -> Solid:
        middle = np.full(3, (solid.shape[0] - 1) / 2)
        return ndimage.affine_transform(solid.astype(float), matrix, middle - matrix @ middle, order=1) > 0.5

    return apply


def upside_down(solid: Solid, _: np.random.Generator) -> Solid:
    return np.flip(solid, Y)


def box(solid: Solid, _: np.random.Generator) -> Solid:
    """Replace the shape by its bounding box."""
    result = np.zeros_like(solid)
    result[tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(solid))] = True
    return result


# Sets


def few(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Show ``count`` different shapes only."""

    def choose(solids: np.ndarray) -> np.ndarray:
        chosen = np.linspace(0, len(solids) - 1, min(count, len(solids))).astype(int)
        return chosen[np.arange(len(solids)) % len(chosen)]

    return choose


def one_in(period: int) -> Callable[[np.ndarray], np.ndarray]:
    """Show the first shape in one of every ``period`` images."""
    return lambda solids: np.where(np.arange(len(solids)) % period == 0, 0, np.arange(len(solids)))


def slimmest_half(solids: np.ndarray) -> np.ndarray:
    """Show the half of the shapes with the fewest voxels, each twice."""
    return solids.sum((1, 2, 3)).argsort()[: (len(solids) + 1) // 2].repeat(2)[: len(solids)]


# Images


def blur(sigma: float) -> ImageCorruption:
    def apply(images: UInt8[Tensor, "N 1 S S"]) -> UInt8[Tensor, "N 1 S S"]:
        scaled = sigma * images.shape[-1] / 64
        return torch.from_numpy(
            ndimage.gaussian_filter(images.numpy().astype(np.float32), (0, 0, scaled, scaled)).round().astype(np.uint8)
        )

    return apply


def noise(deviation: float) -> ImageCorruption:
    """Add normal noise; ``deviation`` is in units of the brightest value."""

    def apply(images: UInt8[Tensor, "N 1 S S"]) -> UInt8[Tensor, "N 1 S S"]:
        sampled = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        return (images + 255 * deviation * sampled).clamp(0, 255).round().to(torch.uint8)

    return apply


def brightness(factor: float) -> ImageCorruption:
    return lambda images: (images * factor).clamp(0, 255).round().to(torch.uint8)


def move(pixels: int) -> ImageCorruption:
    """Move the images to the right, in pixels of a 64² image."""

    def apply(images: UInt8[Tensor, "N 1 S S"]) -> UInt8[Tensor, "N 1 S S"]:
        distance = pixels * images.shape[-1] // 64
        return F.pad(images, (distance, 0))[..., : images.shape[-1]]

    return apply


def silhouettes(images: UInt8[Tensor, "N 1 S S"]) -> UInt8[Tensor, "N 1 S S"]:
    return (images > 0).to(torch.uint8) * 255


def mirrored(images: UInt8[Tensor, "N 1 S S"]) -> UInt8[Tensor, "N 1 S S"]:
    """Mirror left and right, which moves the strong light to the other side."""
    return images.flip(-1)


CORRUPTIONS = {
    "training chairs": Corruption(),
    "stray voxels 0.1 %": Corruption(stray(0.001)),
    "stray voxels 0.3 %": Corruption(stray(0.003)),
    "stray voxels 1 %": Corruption(stray(0.01)),
    "dropout 10 %": Corruption(dropout(0.1)),
    "dropout 20 %": Corruption(dropout(0.2)),
    "dropout 40 %": Corruption(dropout(0.4)),
    "1 floating ball": Corruption(balls(1, add=True)),
    "3 floating balls": Corruption(balls(3, add=True)),
    "8 floating balls": Corruption(balls(8, add=True)),
    "1 hole": Corruption(balls(1, add=False)),
    "4 holes": Corruption(balls(4, add=False)),
    "roughness 0.3": Corruption(rough(0.3)),
    "roughness 0.6": Corruption(rough(0.6)),
    "roughness 1": Corruption(rough(1.0)),
    "roughness 1.5": Corruption(rough(1.5)),
    "dilated by 1": Corruption(dilate(1)),
    "dilated by 2": Corruption(dilate(2)),
    "eroded by 1": Corruption(erode(1)),
    "smoothed 0.7": Corruption(smooth(0.7)),
    "smoothed 1.5": Corruption(smooth(1.5)),
    "smoothed 1.5, fat": Corruption(smooth(1.5, 0.2)),
    "coarse 2": Corruption(coarse(2)),
    "coarse 4": Corruption(coarse(4)),
    "lower half missing": Corruption(half(Y, keep_upper=True)),
    "upper half missing": Corruption(half(Y, keep_upper=False)),
    "left half missing": Corruption(half(X, keep_upper=True)),
    "legs missing": Corruption(without_legs),
    "legs missing, half of them": Corruption(without_legs, share=0.5),
    "upper half shifted by 3": Corruption(shift_upper_half(3)),
    "upper half shifted by 6": Corruption(shift_upper_half(6)),
    "slices 2 of 4": Corruption(slices(4, 2)),
    "slices 1 of 4": Corruption(slices(4, 1)),
    "slices 1 of 8": Corruption(slices(8, 1)),
    "plates with the outline": Corruption(plates),
    "visual hull of 3 views": Corruption(visual_hull),
    "bounding box": Corruption(box),
    "scale 0.9": Corruption(resize(0.9, 0.9)),
    "scale 0.7": Corruption(resize(0.7, 0.7)),
    "height 0.7": Corruption(resize(0.7, 1.0)),
    "tilted by 10°": Corruption(tilt(10)),
    "tilted by 30°": Corruption(tilt(30)),
    "upside down": Corruption(upside_down),
    "one shape in 1 of 4 images": Corruption(select=one_in(4)),
    "slimmest half": Corruption(select=slimmest_half),
    "30 shapes": Corruption(select=few(30)),
    "10 shapes": Corruption(select=few(10)),
    "3 shapes": Corruption(select=few(3)),
    "1 shape": Corruption(select=few(1)),
    "half tables": Corruption(categories=("chair", "table")),
    "tables": Corruption(categories=("table",)),
    "couches": Corruption(categories=("couch",)),
    "bathtubs": Corruption(categories=("bathtub",)),
    "random boxes": Corruption(categories=("cubes",)),
    "image blur 0.5": Corruption(image=blur(0.5)),
    "image blur 1": Corruption(image=blur(1)),
    "image blur 2": Corruption(image=blur(2)),
    "image noise 0.02": Corruption(image=noise(0.02)),
    "image noise 0.05": Corruption(image=noise(0.05)),
    "image noise 0.1": Corruption(image=noise(0.1)),
    "image brightness 0.9": Corruption(image=brightness(0.9)),
    "image brightness 0.6": Corruption(image=brightness(0.6)),
    "image moved by 2 pixels": Corruption(image=move(2)),
    "image moved by 6 pixels": Corruption(image=move(6)),
    "image mirrored": Corruption(image=mirrored),
    "image silhouettes": Corruption(image=silhouettes),
    "light from below": Corruption(lighting=Lighting(directions=((-1.0, -1.0, 2.0), (2.0, 0.5, 2.0)))),
    "views of the front": Corruption(views=ViewDistribution((-90.0, 90.0))),
    "views from above": Corruption(views=ViewDistribution(elevation=(30.0, 60.0))),
}
