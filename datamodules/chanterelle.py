"""Photographs with a transparent background, such as PlatonicGAN's Chanterelles (IG-GAN, supplement B.4)."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.base import ReferenceDataModule
from datamodules.images.alpha_masked import Framing, read_masked, unify_intensity
from datamodules.images.decoding import OnCorrupt, check_on_corrupt
from renderers import Renderer, ViewDistribution
from utils.errors import InputError, check_choice, check_number
from utils.files import cache_key


class ChanterelleDataModule(ReferenceDataModule):
    """Photographs in a folder: the Chanterelles, or any images with a transparent background.

    Each image is cropped to its mask, padded to a square, resized by area averaging, shifted to a common mean intensity, and
    composited over black, like renders. Byte-identical files count once.

    The set is small (62 Chanterelles), so validation and test use all images, those of the training included. Batches are
    ``[images (B, C, S, S)]``, floats in [0, 1] on the device.

    Args:
        root: folder of the images, which is searched recursively, or a ZIP file.
        image_size: image size S.
        channels: 1 for grey, as OpenGL renders voxels; 3 for colour.
        renderer: renderer of generated shapes, in evaluation and in IG-GAN's training. The photographs themselves are not
            rendered; the renderer is set here because its images must match them. Models of images need none.
        views: viewpoints of generated shapes. Those of the photographs are unknown. The supplement specifies none;
            PlatonicGAN samples the whole sphere.
        fill: longer side of each object as a fraction of S. Shapes are confined to a cube half as wide as the image, so that
            every rotation of it stays in view; above 0.5, photographs may be larger than any shape can be.
        mean_intensity: mean luminance inside each mask, in (0, 1); None for the mean over all images.
        mirror: also train on the mirrored images. The reference never includes them.
        held_out: number of images, evenly spread over the folder, that are excluded from training, to measure how far a
            discriminator overfits (``discriminator_gap`` of the model). The reference still includes them.
        on_corrupt: what to do with images that cannot be read: ``raise`` an error that names them, or ``skip`` and log them.
        framing: which pixels an image is cropped to: ``robust`` leaves out faint pixels and specks around the object,
            ``exact`` is every pixel that is not fully transparent; see :func:`datamodules.images.alpha_masked.frame`.
        kid_subset: number of images per KID subset; None for half the images, at most 1,000. Subsets of half the images vary
            about as much as KID itself does; larger ones overlap so much that they understate its variance.
        batch_size: global batch size.
        total_kimg: length of the run in thousands of real images.
        num_workers: number of loader processes. The images are in memory, so 0 is enough.
        seed: seed of the order.
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
        framing: Framing = "robust",
        held_out: int = 0,
    ) -> None:
        super().__init__(batch_size, total_kimg, num_workers, seed)
        check_number("image_size", image_size, at_least=1)
        check_number("fill", fill, above=0, at_most=1)
        if mean_intensity is not None:
            check_number("mean_intensity", mean_intensity, above=0, below=1)
        if kid_subset:
            check_number("kid_subset, if not 0,", kid_subset, at_least=2)
        check_number("held_out", held_out, at_least=0)
        check_on_corrupt(on_corrupt)
        check_choice("framing", framing, get_args(Framing))
        if renderer is not None and renderer.image_size != image_size:
            raise InputError(
                f"image_size is {image_size} for the photographs but {renderer.image_size} for the renderer; "
                "set both to the same value"
            )
        self.root, self.image_size, self.channels = Path(root).expanduser(), image_size, channels
        self.renderer, self.views = renderer, views
        self.fill, self.mean_intensity, self.mirror = fill, mean_intensity, mirror
        self.on_corrupt, self.framing = on_corrupt, framing
        self._kid_subset, self.held_out = kid_subset, held_out

    @property
    def reference_images(self) -> int:  # type: ignore[override]  # known only after the images are found
        return len(self._images)

    @property
    def reference_key(self) -> str:
        images = self._images.numpy()
        return cache_key(images.shape, hashlib.sha256(images.data).hexdigest())

    def check_data(self) -> None:
        self.reference()

    def prepare_data(self) -> None:
        if self._stage != "predict":
            self.reference()

    def reference(self) -> UInt8[Tensor, "N C S S"]:
        """Return all images."""
        return self._images

    @cached_property
    def _images(self) -> UInt8[Tensor, "N C S S"]:
        framed = read_masked(self.root, self.image_size, self.fill, self.on_corrupt, self.framing)
        return torch.from_numpy(unify_intensity(framed, self.channels, self.mean_intensity))

    @cached_property
    def _is_held_out(self) -> Bool[Tensor, " N"]:
        count = len(self._images)
        if self.held_out >= count:
            raise InputError(
                f"{self.root} has {count} images, so held_out {self.held_out} leaves none for training; decrease it"
            )
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[[i * count // self.held_out for i in range(self.held_out)]] = True
        return chosen

    def sample_images(self, count: int) -> tuple[UInt8[Tensor, "n C S S"], UInt8[Tensor, "m C S S"]] | None:
        if not self.held_out:
            return None
        return self._images[~self._is_held_out][:count], self._images[self._is_held_out][:count]

    def train_dataloader(self) -> DataLoader:
        images = self._images[~self._is_held_out]
        dataset = TensorDataset(torch.cat([images, images.flip(-1)]) if self.mirror else images)
        return self.training_loader(dataset, len(dataset))
