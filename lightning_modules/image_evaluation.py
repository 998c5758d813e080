"""The evaluation of generated images: FID or KID, metrics of manifolds, and how far D overfits."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from lightning_modules.base import ClockedModule, batch_images, check_images
from lightning_modules.losses import logit_gap
from metrics import ImageFID, load_extractor
from metrics.kid import check_subset
from metrics.manifolds import MANIFOLD_METRICS, MIN_IMAGES
from renderers import InputError
from utils.distributed import each_rank_alone
from utils.errors import check_number
from utils.files import cache_root
from utils.transfer import to_device

log = logging.getLogger(__name__)


class ImageEvaluationModule(ClockedModule, ABC):
    """A module that evaluates its generated images: as many as there are reference images.

    Args:
        extractor: feature extractor of FID and KID. ``renders_small`` is for grey images; colour images need one that sees
            colour, such as ``renders_color``.
        extractor_weights: another weights file for the extractor.
        kid_subset: images per subset of KID, which is then reported with FID, or without FID if there are fewer real
            images than features (FID compares covariances, which are then singular). 0 reports no KID. None takes the
            data module's ``kid_subset``, or 0 if it has none.
        discriminator_gap: number of training images and of held-out images whose logits evaluations compare, to measure
            how far D overfits: ``d_train``, ``d_held_out`` and ``d_gap``, see :func:`logit_gap`. 0 disables it. For a D with
            a minibatch deviation the numbers are rounded down to multiples of its group.
        cache_dir: cache of FID's statistics of real images; default $UNRENDER_CACHE or ~/.cache/unrender.
        seed: seed of all random numbers of training.

    Raises:
        InputError: a number out of range, or an extractor that is not available.
    """

    discriminator: nn.Module

    def __init__(
        self,
        extractor: str = "renders_small",
        extractor_weights: str | None = None,
        kid_subset: int | None = None,
        discriminator_gap: int = 0,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if kid_subset:
            check_number("kid_subset, if not 0,", kid_subset, at_least=2)
        if discriminator_gap:
            check_number("discriminator_gap, if not 0,", discriminator_gap, at_least=2)
        self.kid_subset, self.discriminator_gap = kid_subset, discriminator_gap
        # The tuple keeps the metric out of the module tree, so the extractor's weights are not in checkpoints.
        self._fid = (ImageFID(load_extractor(extractor, extractor_weights), cache_root(cache_dir) / "statistics"),)
        self._warned = False
        self._evaluation_complete = True  # the last evaluation ended and included all real images
        self._reference_key: str | None = None  # of the real images in self.fid; None if they are unknown
        self.evaluation: dict[str, Any] = {}
        self.evaluation_note = ""

    @abstractmethod
    def latents(self, n: int, *key: int | str) -> Float[Tensor, "n Z"]:
        """Sample latents that depend on ``key`` alone, on the module's device."""

    @abstractmethod
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        """Return the images in [0, 1] that are compared with the real ones.

        Args:
            z: latents of the global batch.
            key: seeds what else the images depend on, such as viewpoints.
            part: the images to generate. Random numbers are sampled for all n, so parts add up to the whole batch.
        """

    def extra_metrics(self) -> dict[str, float]:
        """Return metrics of the evaluation other than those of :class:`~metrics.ImageFID`."""
        return {}

    @property
    def fid(self) -> ImageFID:
        return self._fid[0]

    def _check_extractor(self, channels: int) -> None:
        """Check the extractor, but only warn, once, if a checkpoint was loaded: 0.1.0 allowed such settings."""
        try:
            self._check_channels(channels)
        except InputError as error:
            if not self.restored:
                raise
            if not self._warned:
                rank_zero_only(log.warning)("%s", error)
            self._warned = True

    def check_extractor(self, datamodule: Any) -> None:
        """Check that the extractor sees what the data have.

        Raises:
            InputError: colour data, and an extractor that converts images to grey.
        """
        self._check_channels(getattr(datamodule, "channels", 1))

    def _check_channels(self, channels: int) -> None:
        # A grey model of colour data is refused for that reason, at its first step.
        if channels == getattr(self.discriminator, "channels", 3) == 3:
            self.fid.extractor.check_color("the data")

    def on_validation_epoch_start(self) -> None:
        key = getattr(self.datamodule, "reference_key", None)
        # Without a key nothing tells whether the real images are those of the last evaluation.
        self._configure_fid(keep_real=key is not None and key == self._reference_key and self._evaluation_complete)
        self._reference_key, self._evaluation_complete = key, False  # also if an error or a signal interrupts this one
        self.fid.to(self.device).reset()
        # With several ranks their sums are added, so each rank measures its own share of the real images.
        self._reals_known = self.fid.counts()["real"] > 0
        if not self._reals_known and key is not None and self.world_size == 1:
            self._reals_known = self.fid.load_real(key)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        real = batch_images(batch)
        if batch_idx == 0:
            check_images(real)
            self._check_extractor(real.shape[1])
        if not self._reals_known:
            self.fid.update(real, real=True)
        total, part = self.batch_slice(batch_idx, len(real))
        z = self.latents(total, "evaluation", batch_idx, 0)
        self.fid.update(self.generate_for_metrics(z, batch_idx, 0, part=part), real=False)

    def on_validation_epoch_end(self) -> None:
        counts = {kind: self._sum_over_ranks(n) for kind, n in self.fid.counts().items()}
        expected = getattr(self.datamodule, "reference_images", None)
        self._evaluation_complete = self._all_batches if expected is None else counts["real"] == expected
        if (
            self._evaluation_complete
            and not self._reals_known
            and self._reference_key is not None
            and self.world_size == 1
        ):
            self.fid.save_real(self._reference_key)
        self.evaluation = {**self._compute_distances(counts), **self.extra_metrics(), **self._measure_gap()}
        self.evaluation_note = self.fid.describe(**counts)
        self.log_dict(self.evaluation, sync_dist=True)
        self.log_clock()
        self.fid.reset()

    @property
    def _all_batches(self) -> bool:
        """Whether the trainer's options let an evaluation use all batches of its loader."""
        trainer = self.trainer
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):
            return False
        limit = trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
        return isinstance(limit, float) and limit == 1  # the integer 1 is one batch

    def _configure_fid(self, keep_real: bool) -> None:
        """Set up KID as configured here or by the data module, and remove the real images unless they are to be kept.

        Raises:
            InputError: more images per subset than there are real images.
        """
        data = self.datamodule
        subset = getattr(data, "kid_subset", 0) if self.kid_subset is None else self.kid_subset
        current = self.fid.kid.subset if self.fid.kid else 0
        if subset != current or not keep_real:
            self._fid = (ImageFID(self.fid.extractor, self.fid.cache_dir, subset),)
        if subset and (reals := getattr(data, "reference_images", None)) is not None:
            check_subset(subset, reals, "real")

    def _compute_distances(self, counts: dict[str, int]) -> dict[str, float]:
        """Return the metrics of images, NaN where an evaluation had too few images for one that the whole data allow.

        These are ``fid`` and ``sfid``, unless KID replaces them; ``kid`` and ``kid_std``; ``precision``, ``recall``,
        ``density`` and ``image_coverage``. A smoke run and a short sanity check have those of the run's evaluations; if
        nothing tells how many real images these have, all that are possible.
        """
        trainer: Any = self.trainer
        kid = self.fid.kid
        short = trainer.fast_dev_run or (trainer.sanity_checking and not self._evaluation_complete)
        reals = getattr(self.datamodule, "reference_images", math.inf if short else counts["real"])
        frechet = kid is None or reals >= self.fid.extractor.num_features
        names = (["fid", "sfid"] if frechet else []) + (["kid", "kid_std"] if kid else [])
        if reals >= MIN_IMAGES:
            names += MANIFOLD_METRICS
        figures = self.fid.compute_all(frechet) if min(counts.values()) >= self.fid.min_images else {}
        return {name: figures.get(name, float("nan")) for name in names}

    def discriminate(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Return D's logits of real images of the data module, without augmentation."""
        return self.discriminator(images)

    @torch.no_grad()
    def _measure_gap(self) -> dict[str, float]:
        """Return :func:`logit_gap` of training images and held-out images; nothing if it is disabled.

        Raises:
            InputError: a data module that does not hold out images, or fewer than two of either kind.
        """
        if not self.discriminator_gap:
            return {}
        sample = getattr(self.datamodule, "sample_images", None)
        images = sample(self.discriminator_gap) if sample else None
        if images is None:
            raise InputError(
                f"discriminator_gap needs a data module with held-out images, {type(self.datamodule).__name__} has none; "
                "hold some out or set discriminator_gap to 0"
            )
        if min(map(len, images)) < 2:
            raise InputError(
                f"discriminator_gap needs two training images and two held-out images, got {len(images[0])} and "
                f"{len(images[1])}; use more images, or set discriminator_gap to 0"
            )
        group = getattr(self.discriminator, "stddev_group", 1)  # D's batches must be multiples of it
        size = max(32 // group, 1) * group
        whole = [part[: max(group, len(part) // group * group)] for part in images]
        with each_rank_alone():  # each rank has all images
            logits = [
                torch.cat([self.discriminate(to_device(x, self.device).float() / 255) for x in part.split(size)])
                for part in whole
            ]
        return logit_gap(*logits)

    def _sum_over_ranks(self, count: int) -> int:
        return int(self.trainer.strategy.reduce(torch.tensor(count, device=self.device), reduce_op="sum"))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()
