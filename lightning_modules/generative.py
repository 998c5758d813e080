"""The base class of generators: EMA, R1, metrics of images, numbered samples."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.base import ClockedModule, batch_images, check_images, seeded_generator
from lightning_modules.losses import gradient_penalty, logit_gap
from metrics import ImageFID, load_extractor
from metrics.kid import check_subset
from metrics.manifolds import FIGURES as MANIFOLD_METRICS
from metrics.manifolds import MIN_IMAGES
from networks import AdaptiveAugment, DiffAugment
from renderers import Camera, InputError, Rendering, ViewDistribution
from utils.errors import check_number
from utils.files import cache_root
from utils.transfer import to_device

log = logging.getLogger(__name__)


class GenerativeModule(ClockedModule):
    """A generator with its EMA, FID or KID of its images, and samples. Subclasses add the output and the training.

    Images that are shown, evaluated or exported come from the EMA of the generator's weights. Subclasses set
    ``discriminator`` and ``optimizer_factories``.

    Args:
        generator: network with ``latent_size`` that takes latents ``(B, Z)``.
        ema_half_life_kimg: half-life of the EMA in thousands of images. It is shorter at the start: at most 5 % of the
            images seen so far.
        r1_gamma: γ of R1, the gradient penalty of D at real images (Mescheder et al. 2018), for images in [-1, 1] as
            published; 0 disables it.
        r1_every: steps between two R1 penalties; the penalty is multiplied by this number (StyleGAN2's lazy
            regularization).
        augment: augmentation T of D's images, for few real images: :class:`networks.DiffAugment` or
            :class:`networks.AdaptiveAugment`; None for none. See :meth:`augmented`.
        discriminator_gap: number of training images and of held-out images whose logits evaluations compare, to measure
            how far D overfits: ``d_train``, ``d_held_out`` and ``d_gap``, see :func:`logit_gap`. 0 disables it.
        extractor: feature extractor of FID and KID. ``renders_small`` is for grey images; colour images need one that sees
            colour, such as ``renders_color``.
        extractor_weights: another weights file for the extractor.
        kid_subset: images per subset of KID, which is then reported with FID, or without FID if there are fewer real
            images than features (FID compares covariances, which are then singular). 0 reports no KID. None takes the
            data module's ``kid_subset``, or 0 if it has none.
        cache_dir: cache of FID's statistics of real images; default $UNRENDER_CACHE or ~/.cache/unrender.
        samples: number of samples of ``predict``.
        sample_seed: seed of the latents and viewpoints of ``predict``.
        seed: seed of all random numbers of training.

    Raises:
        InputError: a number out of range, an extractor that is not available, or augmentation of colour for a discriminator
            of grey images.
    """

    local_batch_norm = ("generator_ema",)
    discriminator: nn.Module
    optimizer_factories: dict[str, OptimizerCallable]  # by network, in the order in which a step updates them

    def __init__(
        self,
        generator: nn.Module,
        ema_half_life_kimg: float = 10.0,
        r1_gamma: float = 0.0,
        r1_every: int = 16,
        augment: DiffAugment | None = None,
        discriminator_gap: int = 0,
        extractor: str = "renders_small",
        extractor_weights: str | None = None,
        kid_subset: int | None = None,
        cache_dir: str | None = None,
        samples: int = 8,
        sample_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        check_number("ema_half_life_kimg", ema_half_life_kimg, above=0)
        check_number("r1_gamma", r1_gamma, at_least=0)
        check_number("r1_every", r1_every, at_least=1)
        check_number("samples", samples, at_least=1)
        check_number("sample_seed", sample_seed, at_least=0)
        if kid_subset:
            check_number("kid_subset, if not 0,", kid_subset, at_least=2)
        if discriminator_gap:
            check_number("discriminator_gap, if not 0,", discriminator_gap, at_least=2)
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.augment, self.discriminator_gap = augment, discriminator_gap
        self.generator = generator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.ema_half_life_kimg = ema_half_life_kimg
        self.samples, self.sample_seed = samples, sample_seed
        self.kid_subset = kid_subset
        # The tuple keeps the metric out of the module tree, so the extractor's weights are not in checkpoints.
        self._fid = (ImageFID(load_extractor(extractor, extractor_weights), cache_root(cache_dir) / "statistics"),)
        self._warned = False
        self._evaluation_complete = True  # the last evaluation included all real images
        self._reference_key: str | None = None  # of the real images in self.fid; None if they are unknown
        self.evaluation: dict[str, Any] = {}
        self.evaluation_note = ""

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

    @abstractmethod
    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Return images of ``rows * columns`` samples in reading order, by kind. ``samples`` look as in evaluation."""

    @abstractmethod
    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the samples whose numbers are in ``batch``; ``image`` is one of the keys."""

    def extra_metrics(self) -> dict[str, float]:
        """Return metrics of the evaluation other than those of :class:`~metrics.ImageFID`."""
        return {}

    def compilable(self) -> Iterator[nn.Module]:
        """Yield the networks, without D if R1 is on: ``torch.compile`` does not support second derivatives."""
        return (network for network in super().compilable() if not (self.r1_gamma and network is self.discriminator))

    def prepare_r1(self, real: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the real images of this step: with gradient if the step has an R1 penalty.

        The penalty is taken at the images before augmentation, through T, as in StyleGAN2-ADA's code.
        """
        return real.detach().requires_grad_(self.r1_gamma > 0 and self.step % self.r1_every == 0)

    def add_r1(
        self, loss: Float[Tensor, ""], real_logits: Float[Tensor, " B"], real: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        """Add R1 to D's loss if ``real`` is from :meth:`prepare_r1` and this step has a penalty, and log it."""
        if not real.requires_grad:
            return loss
        r1 = gradient_penalty(real_logits, real)
        self.log_extra(r1=r1.detach())
        # γ is defined for images in [-1, 1]; D's images are in [0, 1], so |∇D|² is 4 times as large.
        return loss + self.r1_every * self.r1_gamma / 4 / 2 * r1

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a module as :meth:`ClockedModule.load_from_checkpoint` does, ready to generate samples."""
        module = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        module.measure_batch_norm()
        return module

    def augmented(self, images: Float[Tensor, "B C H W"], kind: str) -> Float[Tensor, "B C H W"]:
        """Return T(images), the images as D sees them in this step; the images themselves without ``augment``.

        T depends on (seed, step, kind, sample in the global batch). So all uses of a generated sample in a step, by D, G
        and R, have the same T.

        Args:
            images: this rank's images.
            kind: ``real`` or ``generated``.
        """
        if self.augment is None:
            return images
        n = len(images)
        shape = (n * self.world_size, self.augment.numbers)
        uniform = torch.rand(shape, generator=self.random(f"augment {kind}"))
        return self.augment(images, self.rank_slice(uniform, n))

    def adapt_augment(self, real_logits: Float[Tensor, " B"]) -> None:
        """Adapt ``augment`` to D's logits of the augmented real images of this step, if it is adaptive, and log it."""
        if isinstance(self.augment, AdaptiveAugment):
            self.augment.adapt(real_logits, self.step)
            self.log_extra(augment_p=self.augment.probability.clone())

    def on_fit_start(self) -> None:
        self._check_extractor(getattr(self.datamodule, "channels", 1))
        if self.augment is not None:
            check_augment(self.augment, self.discriminator, getattr(self, "views", None), self.datamodule)

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

    @property
    def fid(self) -> ImageFID:
        return self._fid[0]

    @property
    def latent_size(self) -> int:
        return cast(int, self.generator.latent_size)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [make(getattr(self, name).parameters()) for name, make in self.optimizer_factories.items()]

    def training_latents(self, n: int, purpose: str = "latents") -> Float[Tensor, "n Z"]:
        """Sample this rank's n standard normal latents of a training step."""
        z = torch.randn(n * self.world_size, self.latent_size, generator=self.random(purpose))
        return self.rank_slice(z, n)

    def latents(self, n: int, *key: int | str) -> Float[Tensor, "n Z"]:
        """Sample standard normal latents that depend on ``key`` alone, on the module's device."""
        generator = seeded_generator("latents", *key)
        return to_device(torch.randn(n, self.latent_size, generator=generator), self.device)

    @torch.no_grad()
    def update_ema(self, batch: int) -> None:
        """Move ``generator_ema`` toward the generator after a step of ``batch`` images over all ranks."""
        half_life = min(1000 * self.ema_half_life_kimg, 0.05 * max(self.images_seen, 1))
        weight = 1 - 0.5 ** (batch / half_life)
        for average, current in zip(self.generator_ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(current, weight)

    @torch.no_grad()
    def measure_batch_norm(self, batches: int = 8, batch: int = 64) -> None:
        """Recompute the batch-norm statistics of ``generator_ema`` ("standing statistics", BigGAN).

        The running statistics of the trained generator do not fit the averaged weights: with them the same network swings
        between empty and full grids from one evaluation to the next. The result is a function of the weights alone.
        """
        norms = [m for m in self.generator_ema.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean over the batches
            norm.train()
        for i in range(batches):
            self.generator_ema(self.latents(batch, "batch norm", i))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    # Evaluation: as many generated images as there are reference images.

    def on_validation_epoch_start(self) -> None:
        self.measure_batch_norm()
        key = getattr(self.datamodule, "reference_key", None)
        # Without a key nothing tells whether the real images are those of the last evaluation.
        self._configure_fid(keep_real=key is not None and key == self._reference_key and self._evaluation_complete)
        self._reference_key = key
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
        ``density`` and ``image_coverage``.
        """
        kid = self.fid.kid
        frechet = kid is None or counts["real"] >= self.fid.extractor.num_features
        names = (["fid", "sfid"] if frechet else []) + (["kid", "kid_std"] if kid else [])
        if getattr(self.datamodule, "reference_images", counts["real"]) >= MIN_IMAGES:
            names += MANIFOLD_METRICS
        figures = self.fid.figures(frechet) if min(counts.values()) >= self.fid.min_images else {}
        return {name: figures.get(name, float("nan")) for name in names}

    def discriminate(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """Return D's logits of real images of the data module, without augmentation."""
        return self.discriminator(images)

    @torch.no_grad()
    def _measure_gap(self) -> dict[str, float]:
        """Return :func:`logit_gap` of training images and held-out images; nothing if it is disabled.

        Raises:
            InputError: a data module that does not hold out images.
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
        logits = [
            torch.cat([self.discriminate(to_device(x, self.device).float() / 255) for x in part.split(32)])
            for part in images
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

    def on_train_end(self) -> None:
        self.measure_batch_norm()  # before the last checkpoint and the last samples

    # Samples by number: sample i of a seed does not depend on the number of samples.

    def on_predict_epoch_start(self) -> None:
        self.measure_batch_norm()

    def predict_dataloader(self) -> DataLoader:
        numbers = cast(Dataset[int], range(self.samples))  # any sequence is a dataset
        return DataLoader(numbers, batch_size=min(16, self.samples))

    def sample_latents(self, numbers: Tensor) -> Float[Tensor, "n Z"]:
        """Return the latents of samples by number."""
        return torch.cat([self.latents(1, "sample", self.sample_seed, int(i)) for i in numbers])

    def sample_camera(self, views: ViewDistribution, numbers: Tensor) -> Camera:
        """Return a random viewpoint for each sample by number."""
        cameras = [views.sample(1, seeded_generator("sample view", self.sample_seed, int(i))) for i in numbers]
        return Camera(torch.cat([c.azimuth for c in cameras]), torch.cat([c.elevation for c in cameras]), views.fov)


def check_augment(
    augment: DiffAugment, discriminator: nn.Module, views: ViewDistribution | None, datamodule: Any
) -> None:
    """Check that an augmentation suits the data.

    Raises:
        InputError: colour for grey images; mirroring of data that are not mirrored, or of shapes that are seen more from one
            side than from the other.
    """
    channels = getattr(discriminator, "channels", getattr(datamodule, "channels", 3))
    if augment.color and channels != 3:
        raise InputError(f"augment.color is for RGB images, but discriminator.channels is {channels}; set it to false")
    if not augment.mirror:
        return
    if not getattr(datamodule, "mirror", False):
        raise InputError(
            "augment.mirror is for data that are mirrored, such as photographs with data.mirror=true; mirrored renders "
            "would be lit from the wrong side; set augment.mirror to false"
        )
    if views is not None and not views.symmetric:
        first, last = views.azimuth
        raise InputError(
            f"augment.mirror requires viewpoints that are symmetric about azimuth 0, but views.azimuth is [{first:g}, "
            f"{last:g}]; set augment.mirror to false"
        )


def row_views(views: ViewDistribution, rows: int, columns: int, seed: int) -> Camera:
    """Sample one viewpoint per row of a grid and return it for each image, in reading order."""
    camera = views.sample(rows, torch.Generator().manual_seed(seed))
    return Camera(camera.azimuth.repeat_interleave(columns), camera.elevation.repeat_interleave(columns), views.fov)


def normal_maps(rendering: Rendering, name: str) -> dict[str, Float[Tensor, "B 3 H W"]]:
    """Return the normal map under ``name``, or nothing if the renderer returns no normals, as for coloured volumes."""
    return {} if rendering.normals is None else {name: rendering.normal_map()}
