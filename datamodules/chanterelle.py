"""Photographs with their background masked out, such as PlatonicGAN's Chanterelles (IG-GAN, supplement B.4)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.base import RunDataModule
from datamodules.images.alpha_masked import read_masked, unify_intensity
from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from renderers import InputError, Renderer, ViewDistribution
from utils.files import cache_key


class ChanterelleDataModule(RunDataModule):
    """The photographs below a folder: the Chanterelles, or any images with a transparent background.

    Each is cropped to its mask, padded to a square, resized by area, brought to one mean intensity by addition, and laid
    before black, where renders stand as well. Files that are equal byte by byte count once.

    There are few of them (62 Chanterelles), so none is held out: validation and test see the images of training.
    Batches are ``[images (B, C, S, S)]``, floats in [0, 1] on the device.

    Args:
        root: the folder; images may lie in folders within it.
        image_size: S.
        channels: 1 for grey, as OpenGL draws voxels; 3 for colour.
        renderer: nothing here is rendered: it draws the generated shapes, for evaluation and in IG-GAN's training, and lies
            here because it must give images like these. Models take it from here; a model without shapes needs none.
        views: where generated shapes are seen from. The photographs' own viewpoints are unknown; the supplement states
            none, PlatonicGAN draws from the whole sphere.
        fill: the longer side of each object as a share of S. Shapes live in a cube half as wide as the image, so that any
            rotation of it stays in view: beyond 0.5 there are photographs that a shape could not fill.
        mean_intensity: mean luminance inside every mask, in (0, 1); None for the mean over the images.
        mirror: train on the mirror images as well; they are never the reference.
        on_corrupt: images that cannot be read are refused by name (raise), or left out and counted in the log (skip).
        kid_subset: images a subset of KID's, by which models are evaluated on these data; None for half the images, at
            most 1,000. Subsets of half the images scatter about as much as KID itself does; larger ones overlap so much
            that their scatter flatters it.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of real images.
        num_workers: processes that load the data, which lie in memory: 0 will do.
        seed: of the order.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 128,
        channels: Literal[1, 3] = 1,
        renderer: Renderer | None = None,
        views: ViewDistribution | None = None,
        fill: float = 0.5,
        mean_intensity: float | None = None,
        mirror: bool = False,
        on_corrupt: OnCorrupt = "raise",
        kid_subset: int | None = None,
        batch_size: int = 32,
        total_kimg: float = 500,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        if image_size < 1:
            raise InputError(f"image_size must be positive, got {image_size}")
        if not 0 < fill <= 1:
            raise InputError(f"fill must lie in (0, 1], got {fill}")
        if mean_intensity is not None and not 0 < mean_intensity < 1:
            raise InputError(f"mean_intensity must lie in (0, 1), got {mean_intensity}")
        check_on_corrupt(on_corrupt)
        if renderer is not None and renderer.image_size != image_size:
            raise InputError(
                f"photographs are made {image_size}², renderer draws {renderer.image_size}²; set both to one image_size"
            )
        self.root, self.image_size, self.channels = Path(root).expanduser(), image_size, channels
        self.renderer, self.views = renderer, views
        self.fill, self.mean_intensity, self.mirror = fill, mean_intensity, mirror
        self.on_corrupt = on_corrupt
        self._kid_subset = kid_subset

    @property
    def kid_subset(self) -> int:
        """Images a subset of KID's; 0 for FID alone."""
        return min(1000, self.reference_images // 2) if self._kid_subset is None else self._kid_subset

    @property
    def reference_images(self) -> int:
        """How many images evaluation compares, of each kind."""
        return len(self._images)

    @property
    def reference_key(self) -> str:
        """Fingerprint of the reference images, under which their statistics may be kept."""
        images = self._images.numpy()
        return cache_key(images.shape, hashlib.sha256(images).hexdigest())

    def prepare_data(self) -> None:
        if self.trainer is None or self.trainer.state.fn != "predict":  # it draws from the generator alone
            self.reference()

    def reference(self) -> UInt8[Tensor, "N C S S"]:
        """The images, which are those of training too."""
        return self._images

    @cached_property
    def _images(self) -> UInt8[Tensor, "N C S S"]:
        framed = read_masked(self.root, self.image_size, self.fill, self.on_corrupt)
        return torch.from_numpy(unify_intensity(framed, self.channels, self.mean_intensity))

    def train_dataloader(self) -> DataLoader:
        images = self._images
        dataset = TensorDataset(torch.cat([images, images.flip(-1)]) if self.mirror else images)
        return self.stream(dataset, len(dataset))

    def val_dataloader(self) -> DataLoader:
        return self.share(TensorDataset(self._images), len(self._images))

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()
