"""The base class of generators: EMA, R1, augmentation of D's images, numbered samples."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.base import seeded_generator
from lightning_modules.image_evaluation import ImageEvaluationModule
from lightning_modules.losses import gradient_penalty
from networks import AdaptiveAugment, DiffAugment
from networks.stylegan_layers import deviation_group
from renderers import Camera, InputError, Rendering, ViewDistribution
from utils.distributed import copy_from_rank_zero
from utils.errors import check_number
from utils.transfer import to_device


class GenerativeModule(ImageEvaluationModule):
    """A generator with its EMA, the evaluation of its images, and samples. Subclasses add the output and the training.

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
        samples: number of samples of ``predict``.
        sample_seed: seed of the latents and viewpoints of ``predict``.
        **evaluation: see :class:`ImageEvaluationModule`; ``seed`` is one of them.

    Raises:
        InputError: a number out of range, or a generator without ``latent_size``.
    """

    local_batch_norm = ("generator_ema",)
    optimizer_factories: dict[str, OptimizerCallable]  # by network, in the order in which a step updates them

    def __init__(
        self,
        generator: nn.Module,
        ema_half_life_kimg: float = 10.0,
        r1_gamma: float = 0.0,
        r1_every: int = 16,
        augment: DiffAugment | None = None,
        samples: int = 8,
        sample_seed: int = 0,
        **evaluation: Any,
    ) -> None:
        super().__init__(**evaluation)
        check_number("ema_half_life_kimg", ema_half_life_kimg, above=0)
        check_number("r1_gamma", r1_gamma, at_least=0)
        check_number("r1_every", r1_every, at_least=1)
        check_number("samples", samples, at_least=1)
        check_number("sample_seed", sample_seed, at_least=0)
        if not hasattr(generator, "latent_size"):
            raise InputError(f"{type(generator).__name__} needs an attribute latent_size, the length of its latents")
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.augment = augment
        self.generator = generator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.ema_half_life_kimg = ema_half_life_kimg
        self.samples, self.sample_seed = samples, sample_seed

    @abstractmethod
    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Return images of ``rows * columns`` samples in reading order, by kind. ``samples`` look as in evaluation."""

    @abstractmethod
    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return the samples whose numbers are in ``batch``; ``image`` is one of the keys."""

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
            if self.r1_gamma:
                self.log_extra(r1=None)
            return loss
        r1 = gradient_penalty(real_logits, real)
        self.log_extra(r1=r1)
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
        for total in self.datamodule.plan.sizes if hasattr(self.datamodule, "plan") else []:
            self.check_batch(total)
        if self.augment is not None:
            check_augment(self.augment, self.discriminator, getattr(self, "views", None), self.datamodule)

    def check_batch(self, total: int) -> None:
        """Check that a step can have ``total`` images over all ranks. The sizes of a run's plan are checked at its start.

        Raises:
            InputError: it cannot.
        """
        deviation_group(total, getattr(self.discriminator, "stddev_group", 1))

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
        """Move ``generator_ema`` toward the generator after a step of ``batch`` images over all ranks.

        Buffers are copied, such as the mean style of StyleGAN, which is an average already, or the vectors of spectral norm.
        :meth:`measure_batch_norm` sets those of batch norm.
        """
        half_life = min(1000 * self.ema_half_life_kimg, 0.05 * max(self.images_seen, 1))
        weight = 1 - 0.5 ** (batch / half_life)
        for average, current in zip(self.generator_ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(current, weight)
        for name, part in self.generator_ema.named_modules():
            if not isinstance(part, nn.modules.batchnorm._BatchNorm):
                trained = self.generator.get_submodule(name)
                for kept, buffer in zip(part.buffers(False), trained.buffers(False), strict=True):
                    kept.copy_(buffer)

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
        if self.world_size > 1:  # convolutions on a GPU may round differently on each rank
            copy_from_rank_zero(buffer for norm in norms for buffer in norm.buffers())

    def on_validation_epoch_start(self) -> None:
        self.measure_batch_norm()
        super().on_validation_epoch_start()

    def on_train_epoch_end(self) -> None:
        self.measure_batch_norm()  # before the last checkpoint and the last samples, which callbacks write in on_train_end

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
