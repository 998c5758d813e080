"""Pre-training of the neural renderer on available shapes: tables, chairs or random cubes (supplement B.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lightning_modules.base import ClockedModule, batch_images, check_optimizers, seeded_generator
from lightning_modules.gan_step import check_proxy_images
from lightning_modules.losses import image_loss, relative_error
from renderers import InputError, Renderer, ViewDistribution, VoxelGrid
from renderers.opengl.overlap import start_render
from utils.torch_io import load_state

MAX_RELATIVE_ERROR = 0.9  # an all-black image has 1


def adam(params: Any) -> torch.optim.Optimizer:
    """Adam with learning rate 1e-3."""
    return torch.optim.Adam(params, lr=1e-3)


class NeuralRendererModule(ClockedModule):
    """Trains R to render solid grids like a non-differentiable renderer, with :func:`image_loss`.

    Args:
        neural_renderer: R, such as :class:`renderers.NeuralRenderer` or :class:`renderers.DeferredNeuralRenderer`.
        renderer: the renderer to imitate.
        views: viewpoints, sampled independently for each grid.
        optimizer: optimizer of R's weights.
        decay_learning_rate: whether to decay the learning rate to 0 along a cosine over the run.
        seed: seed of all random numbers of training.

    Raises:
        InputError: in training or validation: images of the two renderers that differ in channels or size.
    """

    decays_over_run = True  # unless decay_learning_rate is False
    evaluation_note = "held-out shapes"

    def __init__(
        self,
        neural_renderer: Renderer,
        renderer: Renderer,
        views: ViewDistribution,
        optimizer: OptimizerCallable = adam,
        decay_learning_rate: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.neural_renderer, self.renderer, self.views = neural_renderer, renderer, views
        check_optimizers(neural_renderer=optimizer)
        self.make_optimizer, self.decay_learning_rate = optimizer, decay_learning_rate
        self.error = float("nan")
        self.evaluation: dict[str, float] = {}  # metrics of the last validation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.neural_renderer.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        occupancy = batch_images(batch)
        n = len(occupancy)
        grid = VoxelGrid(occupancy)
        samples = self.rank_samples(n)
        views = self.views.sample(n * self.world_size, self.random("views"))[samples.start : samples.stop]
        opengl = start_render(self.renderer, grid, views)  # on the host, while a GPU computes R
        rendered = self.neural_renderer(grid, views.to(self.device)).image
        target = opengl().image
        check_proxy_images(target, rendered)
        loss = image_loss(rendered, target)
        optimizer = self.optimizers()
        if self.decay_learning_rate:
            self.cosine_lr(optimizer)
        self.step_optimizer(optimizer, loss)
        self.advance_step(n)
        self.log_step(loss=loss, relative_error=relative_error(rendered.detach(), target))

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(2, device=self.device)  # squared error, squared target

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        occupancy = batch_images(batch)
        grid = VoxelGrid(occupancy)
        total, part = self.batch_slice(batch_idx, len(grid))
        views = self.views.sample(total, seeded_generator("validation views", batch_idx, 0))[part].to(self.device)
        target = self.renderer(grid, views).image
        rendered = self.neural_renderer(grid, views).image
        check_proxy_images(target, rendered)
        self._sums += torch.stack([(rendered - target).square().sum(), target.square().sum()])

    def on_validation_epoch_end(self) -> None:
        error, power = cast(Tensor, self.all_gather(self._sums)).view(-1, 2).sum(0)
        self.error = float(error / power.clamp(min=1e-12))
        self.evaluation = {"val_relative_error": self.error}
        self.log_dict(self.evaluation, prog_bar=True, sync_dist=True)
        self.log_clock()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["relative_error"] = self.error

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        # A resumed run saves checkpoints before its next evaluation.
        self.error = checkpoint.get("relative_error", float("nan"))


def load_proxy(neural_renderer: Renderer, path: str | Path) -> float:
    """Load R's weights from a checkpoint of :class:`NeuralRendererModule`; return its relative error on held-out shapes.

    Raises:
        InputError: the file does not exist, is not such a checkpoint, has other sizes, or renders no better than an
            all-black image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"proxy_checkpoint {path} does not exist; train one with: python -m trainer fit --config proxy_tables.yaml"
        )
    try:
        checkpoint = load_state(path)
        prefix = "neural_renderer."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        relative_error = float(checkpoint["relative_error"])
    except InputError as error:
        raise InputError(f"proxy_checkpoint {error}; it must be a checkpoint of NeuralRendererModule") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"proxy_checkpoint {path} is not a checkpoint of NeuralRendererModule") from error
    try:
        neural_renderer.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"proxy_checkpoint {path} has a different configuration: {str(error).splitlines()[-1].strip()}; train one "
            "with this model's neural_renderer settings"
        ) from error
    if not relative_error < MAX_RELATIVE_ERROR:
        raise InputError(
            f"proxy_checkpoint {path} renders no better than an all-black image (relative error {relative_error:.2f}); "
            "train it longer or with another seed"
        )
    return relative_error
