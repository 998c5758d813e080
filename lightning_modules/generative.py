"""What every generator shares: moving average, FID or KID of its images, samples; and what generators of voxels add."""

from __future__ import annotations

import copy
from abc import abstractmethod
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_modules.base import ClockedModule, seeded_generator
from metrics import ImageFID, load_extractor, mean_occupancy, mean_pairwise_iou
from metrics.kid import check_subset
from renderers import Camera, InputError, Renderer, Rendering, ViewDistribution, VoxelGrid
from utils.distributed import gather_over_ranks
from utils.files import cache_root


class GenerativeModule(ClockedModule):
    """A generator with its moving average, its FID and its samples; subclasses add what it makes and how it is trained.

    Everything that is shown, measured or exported comes from the moving average of the generator's weights.

    Args:
        generator: has ``latent_size`` and takes latents ``(B, Z)``.
        ema_half_life_kimg: half-life of the moving average in thousand images; it is shorter at the start, at most
            5 % of the images seen so far.
        extractor: of FID's features.
        extractor_weights: another file of weights for it.
        kid_subset: images a subset of KID's, which is then measured beside FID, or alone where there are fewer real
            images than features: FID compares covariances, which are then singular. 0 is FID alone; None is the data
            module's ``kid_subset``, and FID alone if it has none.
        cache_dir: where FID's statistics of real images are kept; default $UNRENDER_CACHE or ~/.cache/unrender.
        samples: how many samples ``predict`` gives.
        sample_seed: of the latents and views of ``predict``.
        seed: of all draws.
    """

    unshared = ("generator_ema",)

    def __init__(
        self,
        generator: nn.Module,
        ema_half_life_kimg: float = 10.0,
        extractor: str = "renders_small",
        extractor_weights: str | None = None,
        kid_subset: int | None = None,
        cache_dir: str | None = None,
        samples: int = 8,
        sample_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.generator = generator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.ema_half_life_kimg = ema_half_life_kimg
        self.samples, self.sample_seed = samples, sample_seed
        self.kid_subset = kid_subset
        # A tuple hides the metric from the module tree, and so the extractor's weights from the checkpoints.
        self._fid = (ImageFID(load_extractor(extractor, extractor_weights), cache_root(cache_dir) / "statistics"),)
        self._whole = True  # the last evaluation saw all real images
        self.evaluation: dict[str, Any] = {}

    @abstractmethod
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        """The images that FID is measured on; ``key`` seeds what else they depend on, such as viewpoints.

        ``part`` are those of the n that are made; what is drawn is drawn for all n, so that parts make the whole.
        """

    @abstractmethod
    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Images of ``rows * columns`` samples in reading order, by kind; ``samples`` are as evaluated."""

    @abstractmethod
    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The samples of these numbers; ``image`` is among what it gives."""

    def extra_metrics(self) -> dict[str, float]:
        """What an evaluation says beside the distances, of the batches seen since it began."""
        return {}

    @property
    def fid(self) -> ImageFID:
        return self._fid[0]

    def latents(self, n: int, *key: int | str) -> Float[Tensor, "n Z"]:
        """Standard normal latents that depend on ``key`` alone, on the module's device."""
        generator = seeded_generator("latents", *key)
        return torch.randn(n, self.generator.latent_size, generator=generator).to(self.device)

    @torch.no_grad()
    def update_ema(self, batch: int) -> None:
        """Move the average ``generator_ema`` toward the generator, after a step of ``batch`` images over all ranks."""
        half_life = min(1000 * self.ema_half_life_kimg, 0.05 * max(self.images_seen, 1))
        weight = 1 - 0.5 ** (batch / half_life)
        for average, current in zip(self.generator_ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(current, weight)

    @torch.no_grad()
    def measure_batch_norm(self, batches: int = 8, batch: int = 64) -> None:
        """Give the averaged generator batch-norm statistics of its own ("standing statistics", BigGAN).

        Those that the trained generator gathered belong to other weights: evaluated with them, the same network swings
        between empty and full grids from one evaluation to the next. A function of the weights alone.
        """
        norms = [m for m in self.generator_ema.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        momenta = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        for i in range(batches):
            self.generator_ema(self.latents(batch, "batch norm", i))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    # Evaluation: FID or KID of as many generated images as there are reference images.

    def on_validation_epoch_start(self) -> None:
        self.measure_batch_norm()
        data = self.trainer.datamodule
        self._choose_metric(data)
        self.fid.to(self.device).reset()
        self._key = getattr(data, "reference_key", None)
        # With several ranks the sums of all are added up, so each measures its own share of the real images.
        self._know_real = self.fid.counts()["real"] > 0
        if not self._know_real and self._key is not None and self.world_size == 1:
            self._know_real = self.fid.load_real(self._key)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        if not self._know_real:
            self.fid.update(real, real=True)
        whole, part = self.batch_slice(batch_idx, len(real))
        z = self.latents(whole, "evaluation", batch_idx, 0)
        self.fid.update(self.generate_for_metrics(z, batch_idx, 0, part=part), real=False)

    def on_validation_epoch_end(self) -> None:
        counts = {kind: self._over_ranks(n) for kind, n in self.fid.counts().items()}
        self._whole = counts["real"] == getattr(self.trainer.datamodule, "reference_images", counts["real"])
        if self._whole and not self._know_real and self._key is not None and self.world_size == 1:
            self.fid.save_real(self._key)
        self.evaluation = {**self._distances(counts), **self.extra_metrics()}
        self.evaluation_note = self.fid.describe(**counts)
        self.log_dict(self.evaluation, sync_dist=True, prog_bar=True)
        self.log_clock()
        self.fid.reset()

    def _choose_metric(self, data: Any) -> None:
        """KID as asked for here or by the data.

        Raises:
            InputError: more images a subset than the data have.
        """
        subset = getattr(data, "kid_subset", 0) if self.kid_subset is None else self.kid_subset
        known = self.fid.kid.subset if self.fid.kid else 0
        if subset != known or not self._whole:  # after an evaluation that was cut short, anew
            self._fid = (ImageFID(self.fid.extractor, self.fid.cache_dir, subset),)
        if subset and (reals := getattr(data, "reference_images", None)) is not None:
            check_subset(subset, reals, "real")

    def _distances(self, counts: dict[str, int]) -> dict[str, float]:
        """``fid``, ``kid`` and ``kid_std`` as far as the images allow; NaN where an evaluation was cut too short."""
        kid = self.fid.kid
        alone = kid is not None and counts["real"] < self.fid.extractor.num_features
        names = ([] if alone else ["fid"]) + (["kid", "kid_std"] if kid else [])
        if min(counts.values()) < self.fid.min_images:
            return dict.fromkeys(names, float("nan"))
        return dict(zip(names, kid.compute(), strict=True)) if alone else self.fid.figures()

    def _over_ranks(self, count: int) -> int:
        """The sum over all ranks."""
        return int(self.trainer.strategy.reduce(torch.tensor(count, device=self.device), reduce_op="sum"))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def on_train_end(self) -> None:
        self.measure_batch_norm()  # before the last checkpoint and the last samples

    # Samples, by number: sample i of a seed is the same however many are asked for.

    def on_predict_epoch_start(self) -> None:
        self.measure_batch_norm()

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(range(self.samples), batch_size=min(16, self.samples))

    def sample_latents(self, numbers: Tensor) -> Float[Tensor, "n Z"]:
        """The latents of samples by number."""
        return torch.cat([self.latents(1, "sample", self.sample_seed, int(i)) for i in numbers])


class VoxelGenerativeModule(GenerativeModule):
    """A generator of voxels: thresholded at ``threshold`` and drawn for evaluation; subclasses add how it is trained.

    Evaluation draws from where the reference images were drawn: the data module's ``reference_views``, or ``views``.

    Args:
        generator: latents ``(B, Z)`` to occupancy and, if any, colour ``(B, 1 + C, D, D, D)``; has ``latent_size``.
        renderer: draws samples for evaluation, the one that drew the real images.
        views: viewpoints, those of the real images.
        threshold: what counts as occupied in evaluation.
        **evaluation: see :class:`GenerativeModule`.
    """

    def __init__(
        self,
        generator: nn.Module,
        renderer: Renderer,
        views: ViewDistribution,
        threshold: float = 0.5,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, **evaluation)
        self.renderer, self.views, self.threshold = renderer, views, threshold

    @property
    def evaluation_views(self) -> ViewDistribution:
        data = self.trainer.datamodule if self._trainer is not None else None
        return getattr(data, "reference_views", None) or self.views

    @torch.no_grad()
    def shapes(self, z: Float[Tensor, "n Z"]) -> VoxelGrid:
        """Continuous occupancy (and colour) from the averaged generator."""
        return as_grid(self.generator_ema(z).float())

    @torch.no_grad()
    def draw(self, shapes: VoxelGrid, camera: Camera) -> Rendering:
        """Shapes thresholded and drawn as they are evaluated."""
        return self.renderer(shapes.binarize(self.threshold), camera.to(self.device))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._solids: list[Tensor] = []

    @torch.no_grad()
    def generate_for_metrics(
        self, z: Float[Tensor, "n Z"], *key: int | str, part: slice = slice(None)
    ) -> Float[Tensor, "m C H W"]:
        camera = self.evaluation_views.sample(len(z), seeded_generator("evaluation views", *key))[part]
        shapes = self.shapes(z[part]).binarize(self.threshold)
        if sum(map(len, self._solids)) < 32:
            self._solids.append(shapes.occupancy[:, 0].bool())
        return self.renderer(shapes, camera.to(self.device)).image

    def extra_metrics(self) -> dict[str, float]:
        # Batch by batch and in each rank by rank: the order in which one rank meets them.
        ranks = gather_over_ranks([solids.cpu() for solids in self._solids])
        batches = [x for batch in zip_longest(*ranks) for x in batch if x is not None]
        solids = torch.cat(batches)[:32].to(self.device)
        return {"occupancy": mean_occupancy(solids), "pairwise_iou": mean_pairwise_iou(solids)}

    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Each row has one viewpoint, each image a shape of its own (as in section D of IG-GAN's supplement)."""
        views = self.evaluation_views.sample(rows, torch.Generator().manual_seed(seed))
        camera = Camera(views.azimuth.repeat_interleave(columns), views.elevation.repeat_interleave(columns), views.fov)
        return self.images(self.shapes(self.latents(rows * columns, "grid", seed)), camera)

    def images(self, shapes: VoxelGrid, camera: Camera) -> dict[str, Float[Tensor, "n _ H W"]]:
        """What a sheet shows of shapes, by kind."""
        drawn = self.draw(shapes, camera)
        return {"samples": drawn.image, **_normals(drawn, "normals")}

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The batch's samples: ``occupancy (B, 1, D, D, D)`` in [0, 1]; from random views ``image``, and ``normal_map``
        if the renderer gives normals.
        """
        distribution = self.evaluation_views
        views = [distribution.sample(1, seeded_generator("sample view", self.sample_seed, int(i))) for i in batch]
        camera = Camera(
            torch.cat([v.azimuth for v in views]), torch.cat([v.elevation for v in views]), distribution.fov
        )
        shapes = self.shapes(self.sample_latents(batch))
        drawn = self.draw(shapes, camera)
        return {"occupancy": shapes.occupancy, "image": drawn.image, **_normals(drawn, "normal_map")}


def _normals(drawn: Rendering, name: str) -> dict[str, Float[Tensor, "B 3 H W"]]:
    """The normal map under ``name``, unless the renderer gives none, as those that draw colour in volumes."""
    return {} if drawn.normals is None else {name: drawn.normal_map()}


def as_grid(volume: Float[Tensor, "B C D D D"]) -> VoxelGrid:
    """What a generator of voxels gives: occupancy in channel 0, colour in the others, if there are any."""
    return VoxelGrid(volume[:, :1], volume[:, 1:] if volume.shape[1] > 1 else None)


def check_image_sizes(renderer: Renderer, parts: dict[str, nn.Module]) -> None:
    """Refuse parts made for images of another size than the renderer's; parts that do not tell their size are trusted.

    Raises:
        InputError: naming the part.
    """
    for name, part in parts.items():
        size = getattr(part, "image_size", renderer.image_size)
        if size != renderer.image_size:
            raise InputError(
                f"renderer draws {renderer.image_size}² images, {name}.image_size says {size}; set both to one size"
            )
