"""Images of procedural heads with known depth, normals and viewpoint, on which MeshGAN is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from datamodules.backgrounds import background
from datamodules.renders.cache import RenderCache
from datamodules.renders.cached_base import CachedRenderDataModule, InfiniteImages
from datamodules.shapes.procedural.heads import HEADS_VERSION, Head, head_meshes
from renderers import Camera, OpenGLRenderer, Rendering, SoftRasterizer, ViewDistribution
from utils.errors import check_number
from utils.files import cache_key

Split = Literal["train", "test"]
FOV = 10.0
HEAD_STREAM, BACKGROUND_STREAM, VIEW_STREAM = range(3)  # random streams of an image


class HeadImages:
    """An infinite sequence of heads: head, background and viewpoint i are functions of (seed, split, i) alone.

    Args:
        image_size: image size S.
        views: distribution of viewpoints.
        seed: seed of the heads.
        split: train and test use different random streams and so share no head.
        oversampling: images are rendered this many times larger and reduced by box averaging, like photographs.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, image_size: int, views: ViewDistribution, seed: int = 0, split: Split = "train", oversampling: int = 2
    ) -> None:
        check_number("image_size of heads", image_size, at_least=8)
        check_number("oversampling", oversampling, at_least=1)
        check_number("seed", seed, at_least=0)
        self.image_size, self.views, self.seed = image_size, views, seed
        self.split, self.oversampling = split, oversampling

    def head(self, index: int) -> Head:
        """Return the parameters of head i."""
        return Head.sample(self._rng(index, HEAD_STREAM))

    def camera(self, indices: list[int]) -> Camera:
        """Return the cameras of images i."""
        uniform = np.array([self._rng(i, VIEW_STREAM).uniform(size=2) for i in indices], np.float32)
        low, high = (np.array(pair, np.float32) for pair in zip(self.views.azimuth, self.views.elevation, strict=True))
        angles = torch.from_numpy(low + (high - low) * uniform)
        return Camera(angles[:, 0], angles[:, 1], self.views.fov)

    def images(self, indices: list[int]) -> UInt8[np.ndarray, "n 3 S S"]:
        """Render heads i over their backgrounds from their viewpoints."""
        image = self._render(indices, self.camera(indices), with_background=True)
        return (image * 255).round().to(torch.uint8).numpy()

    def canonical(self, indices: list[int], with_background: bool = False) -> Rendering:
        """Return the ground truth of heads i from azimuth 0 and elevation 0.

        Returns:
            Image ``(n, 3, S, S)`` over black or over the head's background; alpha, 0 or 1; depth from the camera in world
            units, ``inf`` outside the head; unit normals in the camera frame, which equals the world frame here.
        """
        camera = Camera.orbit([0.0] * len(indices), 0.0, self.views.fov)
        image = self._render(indices, camera, with_background)
        meshes = head_meshes([self.head(i) for i in indices], self._texture_size)
        # Sampled at pixel centres. OpenGL's multisampling averages over edges, which would blend unrelated depths.
        exact = SoftRasterizer(self.image_size, margin=0)(meshes, camera)
        return Rendering(image, exact.alpha, exact.depth, exact.normals)

    def cache_key(self) -> str:
        return cache_key(HEADS_VERSION, self.image_size, self.views, self.seed, self.split, self.oversampling)

    @property
    def _texture_size(self) -> int:
        """About one texel per pixel across the face, because OpenGL samples without mipmaps."""
        return min(512, -(-self.image_size * self.oversampling // 4) * 4)

    def _render(self, indices: list[int], camera: Camera, with_background: bool) -> Float[Tensor, "n 3 S S"]:
        size = self.image_size * self.oversampling
        backgrounds = None
        if with_background:
            backgrounds = torch.stack([background(self._rng(i, BACKGROUND_STREAM), size) for i in indices])
        renderer = OpenGLRenderer(size, lighting="unlit", backend="moderngl", geometry=False)
        rendering = renderer(head_meshes([self.head(i) for i in indices], self._texture_size), camera, backgrounds)
        return torch.nn.functional.avg_pool2d(rendering.image.clamp(0, 1), self.oversampling)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, ("train", "test").index(self.split), index, stream])


class HeadsDataModule(CachedRenderDataModule):
    """Textured procedural heads over varied backgrounds, one image per head from a random viewpoint.

    Batches are ``[images (B, 3, S, S)]``, floats in [0, 1] on the device. As with photographs, the viewpoint is not part of
    the batch. ``self.held_out.canonical(indices)`` gives the ground truth for evaluation.

    Args:
        image_size: image size S.
        images: number of training images, each of a different head, or ``unlimited`` (rendered during training).
        reference_images: number of held-out images for FID.
        views: distribution of viewpoints; None for MeshGAN's ±45° about the vertical and ±15° about the horizontal axis at a
            10° field of view.
        oversampling: see :class:`HeadImages`.
        batch_size: global batch size.
        batch_changes: see :class:`RunDataModule`.
        total_kimg: length of the run in thousands of real images.
        cache_dir: folder of the render caches; default ``$UNRENDER_CACHE`` or ``~/.cache/unrender``.
        num_workers: number of processes that load the images, and render them if ``unlimited``.
        seed: seed of heads, backgrounds, viewpoints and order.
    """

    channels = 3

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
        if images != "unlimited":
            check_number("images", images, at_least=1)
        check_number("reference_images", reference_images, at_least=1)
        self.image_size, self.images, self.reference_images = image_size, images, reference_images
        self.views = views or ViewDistribution((-45.0, 45.0), (-15.0, 15.0), FOV)
        self.cache_dir = cache_dir
        self.heads = HeadImages(image_size, self.views, seed, "train", oversampling)
        self.held_out = HeadImages(image_size, self.views, seed, "test", oversampling)

    def _infinite_dataset(self) -> InfiniteImages:
        return InfiniteImages(self.heads.images)

    def _cache(self, train: bool) -> RenderCache:
        heads, images = (self.heads, self.images) if train else (self.held_out, self.reference_images)
        count = self.needed(int(images))
        return RenderCache(
            self.cache_folder(self.cache_dir) / "heads" / cache_key(heads.cache_key(), count),
            count,
            (3, self.image_size, self.image_size),
            heads.images,
            "rendering training heads" if train else "rendering reference heads",
        )
