"""Images of procedural heads before backgrounds, with known depth, normals and viewpoint: what MeshGAN is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.backgrounds import background
from datamodules.renders.cache import RenderCache
from datamodules.renders.cached_base import CachedRenderDataModule
from datamodules.shapes.procedural.heads import HEADS_VERSION, Head, head_meshes
from renderers import Camera, InputError, OpenGLRenderer, Rendering, SoftRasterizer, ViewDistribution
from utils.files import cache_key, cache_root

Split = Literal["train", "test"]
FOV = 10.0


class HeadImages:
    """Heads by number, endless: head, background and viewpoint i are functions of (seed, split, i) alone.

    Args:
        image_size: S.
        views: where they are seen from.
        seed: another seed gives other heads.
        split: train and test draw from different random streams, so no head of one is in the other.
        oversampling: images are drawn this much larger and averaged over boxes, as photographs are made small.
    """

    def __init__(
        self, image_size: int, views: ViewDistribution, seed: int = 0, split: Split = "train", oversampling: int = 2
    ) -> None:
        if image_size < 8 or oversampling < 1 or seed < 0:
            raise InputError(
                f"heads need image_size of at least 8, oversampling of at least 1 and a seed of at least 0, "
                f"got {image_size}, {oversampling} and {seed}"
            )
        self.image_size, self.views, self.seed, self.split, self.oversampling = (
            image_size,
            views,
            seed,
            split,
            oversampling,
        )

    def head(self, index: int) -> Head:
        """What makes head i."""
        return Head.draw(self._stream(index, 0))

    def camera(self, indices: list[int]) -> Camera:
        """Where images i are taken from."""
        draws = np.array([self._stream(i, 2).uniform(size=2) for i in indices], np.float32)
        low, high = (np.array(pair, np.float32) for pair in zip(self.views.azimuth, self.views.elevation, strict=True))
        angles = torch.from_numpy(low + (high - low) * draws)
        return Camera(angles[:, 0], angles[:, 1], self.views.fov)

    def images(self, indices: list[int]) -> UInt8[np.ndarray, "n 3 S S"]:
        """Images i before their backgrounds from their viewpoints."""
        image = self._draw(indices, self.camera(indices), with_background=True)
        return (image * 255).round().to(torch.uint8).numpy()

    def canonical(self, indices: list[int], with_background: bool = False) -> Rendering:
        """The truth about heads i, from azimuth 0 and elevation 0.

        Returns:
            Image ``(n, 3, S, S)`` before black or the head's background; alpha, 0 or 1; depth from the camera in
            world units, ``inf`` beside the head; unit normals in the camera's frame, which is then the world's.
        """
        camera = Camera.orbit([0.0] * len(indices), 0.0, self.views.fov)
        image = self._draw(indices, camera, with_background)
        meshes = head_meshes([self.head(i) for i in indices], self._texture_size)
        # Exact at pixel centres, where OpenGL's multisampling averages over edges: the depth of nothing.
        exact = SoftRasterizer(self.image_size, margin=0)(meshes, camera)
        return Rendering(image, exact.alpha, exact.depth, exact.normals)

    def cache_key(self) -> str:
        return cache_key(HEADS_VERSION, self.image_size, self.views, self.seed, self.split, self.oversampling)

    @property
    def _texture_size(self) -> int:
        """About as many texels as pixels across the face: OpenGL samples without mipmaps."""
        return min(512, -(-self.image_size * self.oversampling // 4) * 4)

    def _draw(self, indices: list[int], camera: Camera, with_background: bool) -> Float[Tensor, "n 3 S S"]:
        size = self.image_size * self.oversampling
        behind = None
        if with_background:
            behind = torch.stack([background(self._stream(i, 1), size) for i in indices])
        renderer = OpenGLRenderer(size, lighting="unlit", backend="moderngl", geometry=False)
        drawn = renderer(head_meshes([self.head(i) for i in indices], self._texture_size), camera, behind)
        return torch.nn.functional.avg_pool2d(drawn.image.clamp(0, 1), self.oversampling)

    def _stream(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, ("train", "test").index(self.split), index, purpose])


class InfiniteHeads(Dataset):
    """Images made as they are asked for, never the same head twice."""

    def __init__(self, heads: HeadImages) -> None:
        self.heads = heads

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor]]:
        return [(image,) for image in torch.from_numpy(self.heads.images(indices))]

    def __getitem__(self, index: int) -> tuple[Tensor]:
        return self.__getitems__([index])[0]


class HeadsDataModule(CachedRenderDataModule):
    """Textured procedural heads before varied backgrounds, each seen once from a random viewpoint.

    Batches are ``[images (B, 3, S, S)]``, floats in [0, 1] on the device; the viewpoint stays unknown, as with
    photographs. What is known all the same, for measuring: ``self.held_out.canonical(indices)``.

    Args:
        image_size: S.
        images: how many for training, each of a head of its own, or ``unlimited`` (drawn as training goes).
        reference_images: how many held-out images FID compares.
        views: where heads are seen from; None for MeshGAN's ±45° about the vertical and ±15° about the horizontal axis
            at a 10° field of view.
        oversampling: see :class:`HeadImages`.
        batch_size: global batch size.
        batch_changes: see :class:`RunDataModule`.
        total_kimg: length of the run in thousands of real images.
        cache_dir: where images are kept; default $UNRENDER_CACHE or ~/.cache/unrender.
        num_workers: processes that load, and for ``unlimited`` draw, the images.
        seed: of heads, backgrounds, views and order.
    """

    def __init__(
        self,
        image_size: int = 32,
        images: int | Literal["unlimited"] = 10_000,
        reference_images: int = 2000,
        views: ViewDistribution | None = None,
        oversampling: int = 2,
        batch_size: int = 16,
        batch_changes: Sequence[tuple[float, int]] = (),
        total_kimg: float = 100,
        cache_dir: str | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed, batch_changes)
        if (images != "unlimited" and images < 1) or reference_images < 1:
            raise InputError(f"heads need images of at least 1, got {images} and {reference_images} for reference")
        self.image_size, self.images, self.reference_images = image_size, images, reference_images
        self.views = views or ViewDistribution((-45.0, 45.0), (-15.0, 15.0), FOV)
        self.cache_dir = cache_dir
        self.heads = HeadImages(image_size, self.views, seed, "train", oversampling)
        self.held_out = HeadImages(image_size, self.views, seed, "test", oversampling)

    def _endless(self) -> Dataset:
        return InfiniteHeads(self.heads)

    def _cache(self, train: bool) -> RenderCache:
        heads, count = (self.heads, self.images) if train else (self.held_out, self.reference_images)
        return RenderCache(
            cache_root(self.cache_dir) / "heads" / cache_key(heads.cache_key(), count),
            int(count),
            (3, self.image_size, self.image_size),
            heads.images,
            "drawing training heads" if train else "drawing reference heads",
        )
