"""Base classes of generators: EMA, metrics of images, numbered samples; and rendering for generators of voxel grids."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_modules.base import ClockedModule, check_images, seeded_generator
from lightning_modules.losses import gradient_penalty
from metrics import ImageFID, ShapeReference, compare_shapes, load_extractor, mean_occupancy, mean_pairwise_iou
from metrics.kid import check_subset
from metrics.precision_recall import MIN_IMAGES
from renderers import Camera, InputError, Renderer, Rendering, ViewDistribution, VoxelGrid
from utils.distributed import gather_over_ranks, this_rank
from utils.errors import check_number
from utils.files import cache_root
from utils.transfer import to_device

OCCUPANCY_SAMPLES = 32  # samples that occupancy and pairwise IoU are measured on
COMPARED_TRAINING_SHAPES = 5000  # training shapes that samples are compared with, at most

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
        InputError: a number out of range, or an extractor that is not available.
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
            check_number("kid_subset", kid_subset, at_least=2)
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.generator = generator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.ema_half_life_kimg = ema_half_life_kimg
        self.samples, self.sample_seed = samples, sample_seed
        self.kid_subset = kid_subset
        # The tuple keeps the metric out of the module tree, so the extractor's weights are not in checkpoints.
        self._fid = (ImageFID(load_extractor(extractor, extractor_weights), cache_root(cache_dir) / "statistics"),)
        self._warned = False
        self._evaluation_complete = True  # the last evaluation included all real images
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
        """Return the real images of this step as D takes them: with gradient if the step has an R1 penalty."""
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

    def on_fit_start(self) -> None:
        self._check_extractor()

    def _check_extractor(self) -> None:
        """Call :meth:`check_extractor`, but only warn, once, if a checkpoint was loaded: 0.1.0 allowed such settings."""
        try:
            self.check_extractor(self.datamodule)
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
        # A grey model of colour data is refused for that reason, at its first step.
        if getattr(datamodule, "channels", 1) == getattr(self.discriminator, "channels", 3) == 3:
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
        self._check_extractor()
        self.measure_batch_norm()
        self._configure_kid()
        self.fid.to(self.device).reset()
        self._reference_key = getattr(self.datamodule, "reference_key", None)
        # With several ranks their sums are added, so each rank measures its own share of the real images.
        self._reals_known = self.fid.counts()["real"] > 0
        if not self._reals_known and self._reference_key is not None and self.world_size == 1:
            self._reals_known = self.fid.load_real(self._reference_key)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real = batch[0]
        if batch_idx == 0:
            check_images(real)
        if not self._reals_known:
            self.fid.update(real, real=True)
        total, part = self.batch_slice(batch_idx, len(real))
        z = self.latents(total, "evaluation", batch_idx, 0)
        self.fid.update(self.generate_for_metrics(z, batch_idx, 0, part=part), real=False)

    def on_validation_epoch_end(self) -> None:
        counts = {kind: self._sum_over_ranks(n) for kind, n in self.fid.counts().items()}
        self._evaluation_complete = counts["real"] == getattr(self.datamodule, "reference_images", counts["real"])
        if (
            self._evaluation_complete
            and not self._reals_known
            and self._reference_key is not None
            and self.world_size == 1
        ):
            self.fid.save_real(self._reference_key)
        self.evaluation = {**self._compute_distances(counts), **self.extra_metrics()}
        self.evaluation_note = self.fid.describe(**counts)
        self.log_dict(self.evaluation, sync_dist=True)
        self.log_clock()
        self.fid.reset()

    def _configure_kid(self) -> None:
        """Set up KID as configured here or by the data module.

        Raises:
            InputError: more images per subset than there are real images.
        """
        data = self.datamodule
        subset = getattr(data, "kid_subset", 0) if self.kid_subset is None else self.kid_subset
        current = self.fid.kid.subset if self.fid.kid else 0
        if subset != current or not self._evaluation_complete:  # drop the statistics of an incomplete evaluation
            self._fid = (ImageFID(self.fid.extractor, self.fid.cache_dir, subset),)
        if subset and (reals := getattr(data, "reference_images", None)) is not None:
            check_subset(subset, reals, "real")

    def _compute_distances(self, counts: dict[str, int]) -> dict[str, float]:
        """Return the metrics of images, NaN where an evaluation had too few images for one that the whole data allow.

        These are ``fid`` and ``sfid``, unless KID replaces them; ``kid`` and ``kid_std``; ``precision`` and ``recall``.
        """
        kid = self.fid.kid
        frechet = kid is None or counts["real"] >= self.fid.extractor.num_features
        names = (["fid", "sfid"] if frechet else []) + (["kid", "kid_std"] if kid else [])
        if getattr(self.datamodule, "reference_images", counts["real"]) >= MIN_IMAGES:
            names += ["precision", "recall"]
        figures = self.fid.figures(frechet) if min(counts.values()) >= self.fid.min_images else {}
        return {name: figures.get(name, float("nan")) for name in names}

    def _sum_over_ranks(self, count: int) -> int:
        return int(self.trainer.strategy.reduce(torch.tensor(count, device=self.device), reduce_op="sum"))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
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


class VoxelGenerativeModule(GenerativeModule):
    """A generator of voxel grids, thresholded and rendered for evaluation. Subclasses add the training.

    Evaluation uses the viewpoints of the reference images: the data module's ``reference_views``, or else ``views``.

    Args:
        generator: maps latents ``(B, Z)`` to occupancy and, optionally, colour ``(B, 1 + C, D, D, D)``; has
            ``latent_size``.
        renderer: renders samples for evaluation; the same renderer as for the real images.
        views: viewpoints of the real images.
        threshold: occupancy above which a voxel counts as occupied in evaluation.
        shape_metrics: number of generated shapes that evaluations compare with as many held-out shapes
            (:func:`metrics.compare_shapes`), if the data module has shapes: ``reference_shapes`` and ``shapes``. 0 disables
            the comparison. At most 5,000 training shapes are used, evenly spaced over the training set.
        **evaluation: see :class:`GenerativeModule`.
    """

    def __init__(
        self,
        generator: nn.Module,
        renderer: Renderer,
        views: ViewDistribution,
        threshold: float = 0.5,
        shape_metrics: int = 100,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, **evaluation)
        check_number("threshold", threshold, at_least=0, at_most=1)
        check_number("shape_metrics", shape_metrics, at_least=0)
        self.shape_metrics = shape_metrics
        self._shape_reference: tuple[Any, ShapeReference] | None = None  # with the data module that it was measured for
        self.renderer, self.views, self.threshold = renderer, views, threshold

    @property
    def evaluation_views(self) -> ViewDistribution:
        return getattr(self.datamodule, "reference_views", None) or self.views

    @torch.no_grad()
    def shapes(self, z: Float[Tensor, "n Z"]) -> VoxelGrid:
        """Return continuous occupancy (and colour) from the EMA generator."""
        return as_grid(self.generator_ema(z).float())

    @torch.no_grad()
    def render(self, shapes: VoxelGrid, camera: Camera) -> Rendering:
        """Threshold shapes and render them as in evaluation."""
        return self.renderer(shapes.binarize(self.threshold), camera.to(self.device))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._evaluated_grids: list[Tensor] = []
        self._missing_grids = max(OCCUPANCY_SAMPLES, self.shape_metrics)  # over all ranks

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        camera = self.evaluation_views.sample(len(z), seeded_generator("evaluation views", *key))[part]
        shapes = self.shapes(z[part]).binarize(self.threshold)
        if self._missing_grids > 0:
            self._missing_grids -= len(z)
            self._evaluated_grids.append(shapes.occupancy[:, 0].bool().cpu())
        return self.renderer(shapes, camera.to(self.device)).image

    def extra_metrics(self) -> dict[str, float]:
        # Interleave the ranks' batches: the order in which a single rank would generate them.
        ranks = gather_over_ranks(self._evaluated_grids)
        batches = [x for batch in zip_longest(*ranks) for x in batch if x is not None]
        grids = torch.cat(batches)
        first = grids[:OCCUPANCY_SAMPLES].to(self.device)
        figures = {"occupancy": mean_occupancy(first), "pairwise_iou": mean_pairwise_iou(first)}
        return figures | self._compare_shapes(grids[: self.shape_metrics])

    def _compare_shapes(self, grids: Bool[Tensor, "N D D D"]) -> dict[str, float]:
        """Compare samples with the shapes of the data, on rank 0; nothing if they are not known or this is disabled."""
        data = self.datamodule
        held_out, training = getattr(data, "reference_shapes", None), getattr(data, "shapes", None)
        if not self.shape_metrics or held_out is None or training is None:
            return {}
        figures: dict[str, float] = {}
        if this_rank() == 0:
            if self._shape_reference is None or self._shape_reference[0] is not data:
                rehearsal = bool(getattr(self._trainer, "fast_dev_run", 0))
                reference = ShapeReference.measure(
                    held_out,
                    training,
                    len(grids) if rehearsal else self.shape_metrics,
                    training_limit=len(grids) if rehearsal else COMPARED_TRAINING_SHAPES,
                    cache_dir=None if rehearsal else self.fid.cache_dir,
                )
                self._shape_reference = data, reference
            figures, _ = compare_shapes(grids, self._shape_reference[1])
        return gather_over_ranks(figures)[0]

    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Return images with one viewpoint per row and a different shape in each (section D of IG-GAN's supplement)."""
        camera = row_views(self.evaluation_views, rows, columns, seed)
        return self.grid_images(self.shapes(self.latents(rows * columns, "grid", seed)), camera)

    def grid_images(self, shapes: VoxelGrid, camera: Camera) -> dict[str, Float[Tensor, "n _ H W"]]:
        """Return the images of shapes that sample grids show, by kind."""
        rendering = self.render(shapes, camera)
        return {"samples": rendering.image, **normal_maps(rendering, "normals")}

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return samples by number: ``occupancy (B, 1, D, D, D)`` in [0, 1]; from random viewpoints ``image``, and
        ``normal_map`` if the renderer returns normals.
        """
        camera = self.sample_camera(self.evaluation_views, batch)
        shapes = self.shapes(self.sample_latents(batch))
        rendering = self.render(shapes, camera)
        return {"occupancy": shapes.occupancy, "image": rendering.image, **normal_maps(rendering, "normal_map")}


def row_views(views: ViewDistribution, rows: int, columns: int, seed: int) -> Camera:
    """Sample one viewpoint per row of a grid and return it for each image, in reading order."""
    camera = views.sample(rows, torch.Generator().manual_seed(seed))
    return Camera(camera.azimuth.repeat_interleave(columns), camera.elevation.repeat_interleave(columns), views.fov)


def normal_maps(rendering: Rendering, name: str) -> dict[str, Float[Tensor, "B 3 H W"]]:
    """Return the normal map under ``name``, or nothing if the renderer returns no normals, as for coloured volumes."""
    return {} if rendering.normals is None else {name: rendering.normal_map()}


def as_grid(volume: Float[Tensor, "B C D D D"]) -> VoxelGrid:
    """Split a generator's output into occupancy (channel 0) and colour (further channels, if any)."""
    return VoxelGrid(volume[:, :1], volume[:, 1:] if volume.shape[1] > 1 else None)


def check_image_sizes(renderer: Renderer, parts: dict[str, nn.Module]) -> None:
    """Check that parts are built for the renderer's image size. Parts without ``image_size`` pass.

    Raises:
        InputError: naming the part whose size differs.
    """
    for name, part in parts.items():
        size = getattr(part, "image_size", renderer.image_size)
        if size != renderer.image_size:
            raise InputError(
                f"renderer.image_size is {renderer.image_size}, {name}.image_size is {size}; set both to the same size"
            )
