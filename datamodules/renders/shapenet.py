"""Renders of shapes from random viewpoints: IG-GAN's training data (supplement B.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from datamodules.renders.cache import RENDER_BATCH, RenderCache
from datamodules.renders.cached_base import CachedRenderDataModule, InfiniteImages
from datamodules.shapes import ShapeSource
from datamodules.shapes.unusable import find_unusable, summarize_unusable
from renderers import Camera, OpenGLRenderer, Renderer, ViewDistribution, VoxelGrid
from utils.errors import InputError, check_number
from utils.files import cache_key, cache_root
from utils.progress import Progress

RENDERS_VERSION = 3  # increase when a change alters the images of the same shapes
MAX_CACHED_BYTES = 2**28


class VoxelCache:
    """Boolean grids of a shape source, cached in memory as bits, because generating a shape takes longer than rendering it.

    The first grids that are requested are cached, up to 256 MiB; the others are generated at every request.
    """

    def __init__(self, shapes: ShapeSource) -> None:
        self.shapes = shapes
        self._bits: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Bool[np.ndarray, "D D D"]:
        bits = self._bits.get(index)
        if bits is not None:
            size = self.shapes.voxel_size
            return np.unpackbits(bits, count=size**3).view(bool).reshape(size, size, size)
        solid = self.voxels(index).occupancy[0, 0].numpy() > 0.5
        if (len(self._bits) + 1) * solid.size // 8 <= MAX_CACHED_BYTES:
            self._bits[index] = np.packbits(solid)
        return solid

    def voxels(self, index: int) -> VoxelGrid:
        """Return the shape's voxels, with colours if it has them, not cached."""
        try:
            return self.shapes[index].voxels
        except InputError as error:
            raise _summarize(self.shapes, error) from error

    def __getstate__(self) -> dict[str, object]:
        return {"shapes": self.shapes, "_bits": {}}  # each worker fills its own cache


def _summarize(shapes: ShapeSource, first: InputError) -> InputError:
    """Return one error about all unusable shapes of a source, after the first one was found."""
    found = find_unusable(len(shapes), shapes.check)
    messages = list(found.values()) or [first.message]
    return summarize_unusable(
        messages, len(shapes), "replace or remove them, or set on_corrupt of shapes and reference_shapes to skip"
    )


def render_shapes(
    solids: VoxelCache, renderer: Renderer, views: ViewDistribution, seed: int, indices: list[int]
) -> UInt8[np.ndarray, "n C H W"]:
    """Render the images ``indices``: image i is shape ``i mod len(solids)`` from a viewpoint sampled with (seed, i).

    C is 3 if both shapes and renderer are coloured, else 1.
    """
    if render_channels(solids.shapes, renderer) == 3:
        grids = [solids.voxels(i % len(solids)) for i in indices]
        scene = VoxelGrid(
            torch.cat([g.occupancy for g in grids]), torch.cat([g.color for g in grids if g.color is not None])
        )
    else:
        occupancy = torch.from_numpy(np.stack([solids[i % len(solids)] for i in indices]))[:, None]
        # OpenGL takes booleans, which are a quarter of the data to transfer.
        scene = VoxelGrid(occupancy if isinstance(renderer, OpenGLRenderer) else occupancy.float())
    image = renderer(scene, sample_views(views, seed, indices)).image
    return (image * 255).round().to(torch.uint8).cpu().numpy()


def render_channels(shapes: ShapeSource, renderer: Renderer) -> int:
    """Return the number of channels of the renders of a shape source."""
    return 3 if shapes.colored and getattr(renderer, "colored", False) else 1


def sample_views(views: ViewDistribution, seed: int, indices: list[int]) -> Camera:
    """Return the camera of each image i, sampled with (seed, i)."""
    cameras = [views.sample(1, torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in indices]
    return Camera(torch.cat([c.azimuth for c in cameras]), torch.cat([c.elevation for c in cameras]), views.fov)


def shape_renders(
    shapes: ShapeSource,
    renderer: Renderer,
    views: ViewDistribution,
    count: int,
    seed: int,
    cache_dir: str | Path | None,
    description: str,
) -> RenderCache:
    """Return the cache of ``count`` images ``(C, S, S)`` of :func:`render_shapes`, named by a hash of all inputs."""
    key = cache_key(RENDERS_VERSION, shapes.cache_key(), renderer.cache_key(), views, seed, count)
    return RenderCache(
        cache_root(cache_dir) / "renders" / key,
        count,
        (render_channels(shapes, renderer), renderer.image_size, renderer.image_size),
        partial(render_shapes, VoxelCache(shapes), renderer, views, seed),
        description,
    )


def check_colors(renderer: Renderer, sources: dict[str, ShapeSource]) -> None:
    """Check that OpenGL renders colours if and only if the shapes have them.

    Raises:
        InputError: naming the source that does not match.
    """
    if not isinstance(renderer, OpenGLRenderer):
        return
    for name, shapes in sources.items():
        if renderer.colored and not shapes.colored:
            raise InputError(
                f"renderer.colored is true, but {name} have no colours; use ProceduralShapes with colored: true, or set "
                "renderer.colored to false"
            )
        if shapes.colored and not renderer.colored:
            raise InputError(f"{name} have colours, but renderer.colored is false; set both to the same")


class ShapeNetRenderDataModule(CachedRenderDataModule):
    """Renders of a shape source: ShapeNet, a voxel archive or procedural shapes.

    Batches are ``[images (B, C, H, W)]``, floats in [0, 1] on the device.

    Args:
        shapes: training shapes.
        reference_shapes: held-out shapes whose renders are the reference of FID; the training shapes if None.
        renderer: renderer of the images; use the same one in the model.
        views: distribution of training viewpoints.
        reference_views: viewpoints of the reference images and of generated shapes in evaluation; ``views`` if None. Runs
            with limited viewpoints in the supplement's tables are evaluated from all sides (table 1, footnote).
        images: number of training images (500 in the supplement's tables), ``unlimited`` (rendered during training), or None
            for ``images_per_model`` images of each shape.
        images_per_model: number of images per shape: 1, or 4 for bathtubs in the supplement.
        reference_images: number of real and of generated images in an evaluation.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of real images.
        cache_dir: folder of the render caches; default ``$UNRENDER_CACHE`` or ``~/.cache/unrender``.
        num_workers: number of processes that load the images, and render them if ``unlimited``.
        seed: seed of viewpoints and order.
    """

    def __init__(
        self,
        shapes: ShapeSource,
        renderer: Renderer,
        views: ViewDistribution,
        reference_shapes: ShapeSource | None = None,
        reference_views: ViewDistribution | None = None,
        images: int | Literal["unlimited"] | None = None,
        images_per_model: int = 1,
        reference_images: int = 10_000,
        batch_size: int = 32,
        total_kimg: float = 1000,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        self.shapes, self.reference_shapes = shapes, reference_shapes or shapes
        self.renderer, self.views, self.reference_views = renderer, views, reference_views or views
        check_colors(renderer, {"shapes": shapes, "reference_shapes": self.reference_shapes})
        self.channels = render_channels(shapes, renderer)
        if images != "unlimited" and images is not None:
            check_number("images", images, at_least=1)
        check_number("images_per_model", images_per_model, at_least=1)
        check_number("reference_images", reference_images, at_least=1)
        self.images = len(shapes) * images_per_model if images is None else images
        self.reference_images = reference_images
        self.cache_dir = cache_dir

    @property
    def training_counts(self) -> dict[str, int | str]:
        """Numbers of training ``images`` (or ``unlimited``) and of the ``models`` that they show, for captions."""
        models = len(self.shapes)
        return {"images": self.images, "models": models if isinstance(self.images, str) else min(models, self.images)}

    @cached_property
    def reference_occupancy(self) -> float:
        """Mean occupancy of up to 64 reference shapes, the target for a generator's mean occupancy."""
        shapes = self.reference_shapes
        solids = VoxelCache(shapes)
        return float(np.mean([solids[i].mean() for i in range(min(64, len(shapes)))]))

    def posed_images(
        self, train: bool, numbers: Sequence[int]
    ) -> tuple[Float[Tensor, "n C S S"], Bool[Tensor, "n D D D"], Camera]:
        """Return training or reference images by number, with the shape and the viewpoint of each.

        The images of limited sets are those of the caches, which this neither reads nor fills.
        """
        solids = VoxelCache(self.shapes if train else self.reference_shapes)
        views, seed = (self.views, 2 * self.seed) if train else (self.reference_views, 2 * self.seed + 1)
        description = "rendering training images" if train else "rendering held-out images"
        images = self._render(solids, views, seed, numbers, description).float() / 255
        grids = torch.from_numpy(np.stack([solids[i % len(solids)] for i in numbers]))
        return images, grids, sample_views(views, seed, list(numbers))

    def _render(
        self, solids: VoxelCache, views: ViewDistribution, seed: int, numbers: Sequence[int], description: str
    ) -> UInt8[Tensor, "n C S S"]:
        """Return the images ``numbers`` of :func:`render_shapes`, rendered in batches."""
        images = []
        with Progress(len(numbers), description, "image") as bar:
            for start in range(0, len(numbers), RENDER_BATCH):
                part = list(numbers[start : start + RENDER_BATCH])
                images.append(torch.from_numpy(render_shapes(solids, self.renderer, views, seed, part)))
                bar.update(len(part))
        return torch.cat(images)

    def sample_images(self, count: int) -> tuple[UInt8[Tensor, "n C S S"], UInt8[Tensor, "m C S S"]]:
        """See :meth:`datamodules.base.ReferenceDataModule.sample_images`; the viewpoints are those of training."""
        train, held_out = super().sample_images(count)
        if self.reference_views != self.views:
            numbers, solids = range(len(held_out)), VoxelCache(self.reference_shapes)
            render = partial(self._render, solids, self.views, 2 * self.seed + 1, numbers, "rendering held-out images")
            held_out = self.cached(f"{len(held_out)} held-out images", render)
        return train, held_out

    def _infinite_dataset(self) -> InfiniteImages:
        return InfiniteImages(partial(render_shapes, VoxelCache(self.shapes), self.renderer, self.views, self.seed))

    def _cache(self, train: bool) -> RenderCache:
        return shape_renders(
            self.shapes if train else self.reference_shapes,
            self.renderer,
            self.views if train else self.reference_views,
            self.needed(int(self.images) if train else self.reference_images),
            2 * self.seed + (0 if train else 1),
            self.cache_folder(self.cache_dir),
            "rendering training images" if train else "rendering reference images",
        )
