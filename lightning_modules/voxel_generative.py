"""The base class of generators of voxel grids: thresholding, rendering, and the metrics of shapes."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_modules.base import seeded_generator
from lightning_modules.generative import GenerativeModule, normal_maps, row_views
from metrics import ShapeReference, compare_shapes, mean_occupancy, mean_pairwise_iou
from renderers import Camera, InputError, Renderer, Rendering, ViewDistribution, VoxelGrid
from utils.distributed import gather_over_ranks, this_rank, waiting_for_rank_zero
from utils.errors import check_number

OCCUPANCY_SAMPLES = 32  # samples that occupancy and pairwise IoU are measured on
COMPARED_SHAPES = 100  # generated shapes that are compared with held-out ones, unless the note states another number
COMPARED_TRAINING_SHAPES = 5000  # training shapes that samples are compared with, at most


class VoxelGenerativeModule(GenerativeModule):
    """A generator of voxel grids, thresholded and rendered for evaluation. Subclasses add the training.

    Evaluation uses the viewpoints of the reference images: the data module's ``reference_views``, or else ``views``.

    Args:
        generator: maps latents ``(B, Z)`` to occupancy and, optionally, colour ``(B, 1 + C, D, D, D)``; has
            ``latent_size``.
        renderer: renders samples for evaluation; the same renderer as for the real images. It renders binary grids, so its
            own threshold has no effect.
        views: viewpoints of the real images.
        threshold: occupancy above which a voxel counts as occupied in evaluation; at least 0 and below 1.
        shape_metrics: number of generated shapes that evaluations compare with as many held-out shapes
            (:func:`metrics.compare_shapes`), if the data module has shapes: ``reference_shapes`` and ``shapes``. 0 disables
            the comparison. If an evaluation generates fewer, or fewer are held out, both sets are cut to the smaller number.
            The note of the evaluation states any number but 100. At most 5,000 training shapes are used, evenly spaced over
            the training set.
        **evaluation: see :class:`GenerativeModule`.

    Raises:
        InputError: ``threshold`` or ``shape_metrics`` is out of range.
    """

    def __init__(
        self,
        generator: nn.Module,
        renderer: Renderer,
        views: ViewDistribution,
        threshold: float = 0.5,
        shape_metrics: int = COMPARED_SHAPES,
        **evaluation: Any,
    ) -> None:
        super().__init__(generator, **evaluation)
        check_number("threshold", threshold, at_least=0, below=1)
        check_number("shape_metrics", shape_metrics, at_least=0)
        self.shape_metrics = shape_metrics
        # With the data module and the numbers of shapes that it was measured for; None on ranks other than 0.
        self._shape_reference: tuple[tuple[Any, int, int], ShapeReference | None] | None = None
        self._compared_shapes = 0  # of each set in the last evaluation
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

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self._compared_shapes not in (0, COMPARED_SHAPES):
            self.evaluation_note += f", {self._compared_shapes:,} shapes against as many held-out ones"

    def _compare_shapes(self, grids: Bool[Tensor, "N D D D"]) -> dict[str, float]:
        """Compare samples with as many shapes of the data, on rank 0; nothing if they are not known or this is disabled."""
        data = self.datamodule
        held_out, training = getattr(data, "reference_shapes", None), getattr(data, "shapes", None)
        self._compared_shapes = 0
        if not self.shape_metrics or held_out is None or training is None:
            return {}
        fast_dev_run = bool(getattr(self._trainer, "fast_dev_run", 0))
        count, limit = (len(grids),) * 2 if fast_dev_run else (self.shape_metrics, COMPARED_TRAINING_SHAPES)
        measured_for = (data, count, limit)
        if self._shape_reference is None or self._shape_reference[0] != measured_for:
            reference = None
            with waiting_for_rank_zero():  # reading thousands of meshes takes long
                if this_rank() == 0:
                    reference = ShapeReference.measure(
                        held_out,
                        training,
                        count,
                        training_limit=limit,
                        cache_dir=None if fast_dev_run else self.fid.cache_dir,
                    )
            self._shape_reference = measured_for, reference
        reference, compared = self._shape_reference[1], 0
        figures: dict[str, float] = {}
        if reference:
            compared = min(len(grids), len(reference.clouds))
            figures, _ = compare_shapes(grids[:compared], reference.first(compared))
        figures, self._compared_shapes = gather_over_ranks((figures, compared))[0]
        return figures

    def sample_grids(self, rows: int, columns: int, seed: int) -> dict[str, Float[Tensor, "N _ H W"]]:
        """Return images with one viewpoint per row and a different shape in each (section D of IG-GAN's supplement)."""
        camera = row_views(self.evaluation_views, rows, columns, seed)
        return self.grid_images(self.shapes(self.latents(rows * columns, "grid", seed)), camera)

    def grid_images(self, shapes: VoxelGrid, camera: Camera) -> dict[str, Float[Tensor, "n _ H W"]]:
        """Return the images of shapes that sample grids show, by kind."""
        rendering = self.render(shapes, camera)
        return {"samples": rendering.image, **normal_maps(rendering, "normals")}

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Return samples by number: ``occupancy (B, 1, D, D, D)`` in [0, 1], and ``color (B, C, D, D, D)`` if generated;
        from random viewpoints ``image``, and ``normal_map`` if the renderer returns normals.
        """
        camera = self.sample_camera(self.evaluation_views, batch)
        shapes = self.shapes(self.sample_latents(batch))
        rendering = self.render(shapes, camera)
        color = {} if shapes.color is None else {"color": shapes.color}
        return {
            "occupancy": shapes.occupancy,
            **color,
            "image": rendering.image,
            **normal_maps(rendering, "normal_map"),
        }


def as_grid(volume: Float[Tensor, "B C D D D"]) -> VoxelGrid:
    """Split a generator's output into occupancy (channel 0) and colour (further channels, if any).

    Raises:
        InputError: it is not a batch of cubic grids.
    """
    shape = list(volume.shape)
    if len(shape) != 5 or len(set(shape[2:])) != 1:
        raise InputError(
            f"a generator of voxels must return (B, 1, D, D, D), or more channels with colour, not {shape}"
        )
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


def check_channels(out_channels: int, discriminator: nn.Module) -> None:
    """Check that D sees as many channels as the images of a generator with ``out_channels`` have.

    Raises:
        InputError: it does not. A discriminator without ``channels`` passes.
    """
    expected = max(1, out_channels - 1)
    channels = getattr(discriminator, "channels", expected)
    if channels != expected:
        raise InputError(
            f"generator.out_channels {out_channels} gives images of {expected} channels, but "
            f"discriminator.channels is {channels}; set it to {expected}"
        )
