"""The base class of all modules: counts steps and images, seeds randomness by step, and steps optimizers on all ranks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from networks.synced_layers import sync_batch_norm
from renderers import InputError, Renderer
from utils.distributed import average_gradients, check_ranks, mean_over_ranks
from utils.errors import check_number
from utils.legacy_names import update_checkpoint
from utils.philox import hash_key
from utils.transfer import to_device


def batch_images(batch: Any) -> Any:
    """Return the images (or grids) of a batch: the batch itself, or the first of a list, such as images and labels.

    Raises:
        InputError: the batch is neither.
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, list | tuple) and batch:
        return batch[0]
    raise InputError(
        f"a batch of the data is a {type(batch).__name__}; a data loader must return images, or a list that begins with them"
    )


def check_images(images: Any) -> None:
    """Check that a batch of a data module, of training or evaluation, has images (or grids) as the modules expect them.

    Raises:
        InputError: they are not float32 numbers in [0, 1].
    """
    fix = "a data module must return float32 numbers in [0, 1], such as images.float() / 255 of bytes"
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        kind = str(images.dtype).removeprefix("torch.") if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"the images of the data are {kind}; {fix}")
    low, high = (float(x) for x in images.detach().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN is neither
        raise InputError(f"the images of the data have values from {low:g} to {high:g}; {fix}")


def check_optimizers(**factories: OptimizerCallable) -> dict[str, OptimizerCallable]:
    """Return the optimizers' factories by network, after making each once.

    Raises:
        InputError: an argument is out of range, such as a negative learning rate.
    """
    for name, make in factories.items():
        try:
            defaults = make([nn.Parameter(torch.zeros(1))]).defaults
        except ValueError as error:
            raise InputError(f"the optimizer of {name}: {error}") from error
        # torch's optimizers refuse negative numbers, but not all infinite ones
        for argument, value in defaults.items():
            if isinstance(value, float):
                check_number(f"{argument} of the optimizer of {name}", value)
    return factories


def seeded_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on ``key`` alone, such as (seed, step, purpose).

    Numbers sampled on the CPU and then moved are the same on every device, and a resumed run samples them again without
    any saved state.
    """
    return torch.Generator().manual_seed(hash_key(*key) >> 1)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Freeze modules: no gradients for their parameters, and evaluation mode. Gradients still pass *through* them.

    Evaluation mode stops the power iteration of spectral norm. Afterwards each submodule has its own mode again, such as a
    pre-trained part that stays in evaluation mode.
    """
    training = {part: part.training for m in modules for part in m.modules()}
    trainable = [p for m in modules for p in m.parameters() if p.requires_grad]
    for m in modules:
        m.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode
        for p in trainable:
            p.requires_grad_(True)


def forward_precision(device: torch.device) -> torch.autocast:
    """Return a context for a backward pass within a training step: its operations have the precision of the forward pass.

    Lightning runs steps under autocast, which would round the gradients of what the forward pass computes in float32, such
    as renderers.
    """
    return torch.autocast(device.type, enabled=False)


def _computed(values: dict[str, Tensor | float | None]) -> dict[str, Tensor | float]:
    """Return the values that are not None, without their graphs."""
    detached = {name: value.detach() if isinstance(value, Tensor) else value for name, value in values.items()}
    return {name: value for name, value in detached.items() if value is not None}


class ClockedModule(pl.LightningModule):
    """Base class of all modules. Counts its own training steps (batches) and images seen.

    Lightning's ``global_step`` counts optimizer steps, so in a GAN it runs two or three times too fast.

    Training does not depend on the number of ranks: small random tensors are sampled for the *global* batch and sliced by
    rank, large ones for this rank's samples alone (:func:`utils.philox.keyed_normal`). Gradients are averaged over ranks by
    :meth:`step_optimizer` instead of DDP's hooks, and batch norm uses the batches of all ranks. Before each checkpoint the
    states of all ranks are compared, see :func:`check_ranks`.

    Args:
        seed: seed of all random numbers of training.
    """

    local_batch_norm: tuple[str, ...] = ()  # children whose batch norm is never trained and needs no synchronization
    decays_over_run = False  # whether training depends on the length of the run, through :meth:`cosine_lr`

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        check_number("seed", seed, at_least=0)
        self.automatic_optimization = False
        self.seed = seed
        self.step = 0
        self.images_seen = 0
        self._batch_checked = False
        self.restored = False  # whether a checkpoint was loaded
        self.losses: dict[str, Tensor | float] = {}  # of the last step, for callbacks
        self._newest: dict[str, Tensor | float] = {}  # values logged by training steps, averaged over ranks

    def setup(self, stage: str) -> None:
        """Synchronize batch norm over ranks. Lightning calls this before it creates the optimizers.

        Raises:
            InputError: a strategy that shards networks; a precision other than 32-true and bf16-mixed.
        """
        if stage != "fit":
            return
        strategy = self.trainer.strategy
        if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise InputError(
                f"trainer.strategy must be ddp, or auto on one device, not {type(strategy).__name__}; several optimizers "
                "update a module in one step, which strategies that shard networks do not support"
            )
        # Losses of 16-mixed are scaled, but gradients between networks and R1 bypass the scaler and would underflow.
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise InputError(
                f"trainer.precision {self.trainer.precision} is not supported; use 32-true, or bf16-mixed to compute in "
                "bfloat16"
            )
        if self.world_size == 1:
            return
        assert isinstance(strategy, DDPStrategy)  # a single device has one rank
        for name, network in self.named_children():
            if name not in self.local_batch_norm:
                sync_batch_norm(network, on_cpu=strategy.root_device.type == "cpu")

    @property
    def kimg(self) -> float:
        """Thousands of images seen, over all ranks."""
        return self.images_seen / 1000

    @property
    def world_size(self) -> int:
        """Number of ranks; 1 without a trainer."""
        return self.trainer.world_size if self._trainer is not None else 1

    @property
    def datamodule(self) -> Any:
        """The trainer's data module; None without a trainer or a data module."""
        return getattr(self._trainer, "datamodule", None)

    def compilable(self) -> Iterator[nn.Module]:
        """Yield what ``torch.compile`` may compile: each network with trainable weights, also inside a renderer."""
        for child in self.children():
            for network in child.children() if isinstance(child, Renderer) else [child]:
                if any(p.requires_grad for p in network.parameters()):
                    yield network

    def advance_step(self, local_batch: int) -> None:
        """Count one training step. Call this after all optimizer steps of ``training_step``."""
        self.step += 1
        self.images_seen += local_batch * self.world_size

    def random(self, purpose: str) -> torch.Generator:
        """Return the generator of this step for one purpose. It is the same on all ranks."""
        return seeded_generator(self.seed, self.step, purpose)

    def rank_samples(self, local_batch: int) -> range:
        """Return the indices of this rank's samples in the global batch."""
        start = self.global_rank * local_batch
        return range(start, start + local_batch)

    def rank_slice(self, whole: Any, local_batch: int) -> Any:
        """Return this rank's part of a global batch (a tensor or a camera), on this rank's device."""
        samples = self.rank_samples(local_batch)
        part = whole[samples.start : samples.stop]
        return to_device(part, self.device) if isinstance(part, Tensor) else part.to(self.device)

    def batch_slice(self, batch_idx: int, local_batch: int) -> tuple[int, slice]:
        """Return the size of an evaluation batch over all ranks, and the slice of it that this rank evaluates."""
        if hasattr(self.datamodule, "batch_slice"):
            return self.datamodule.batch_slice(batch_idx)
        start = self.global_rank * local_batch
        return local_batch * self.world_size, slice(start, start + local_batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check the first batch that this process trains on."""
        if not self._batch_checked:
            check_images(batch_images(batch))
            self._batch_checked = True

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a module with the parts given as arguments, as Lightning does.

        Raises:
            InputError: parts are missing. Checkpoints hold weights, not the networks and renderers of a module.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except TypeError as error:
            parameters = inspect.signature(cls.__init__).parameters.values()
            required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
            missing = [name for name in required if name != "self" and name not in kwargs]
            if not missing:
                raise
            raise InputError(
                f"{checkpoint_path} has the weights of {cls.__name__} but not its parts; call trainer.load_run(run_dir), or "
                f"pass them as arguments: {', '.join(missing)}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add step and images seen, and compare the ranks. Lightning calls this on all ranks."""
        checkpoint["clock"] = {"step": self.step, "images_seen": self.images_seen, "seed": self.seed}
        checkpoint["newest_values"] = {name: float(value) for name, value in self._newest.items()}
        compared = ("clock", "newest_values", "state_dict", "optimizer_states")
        check_ranks({key: checkpoint[key] for key in compared if key in checkpoint})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        update_checkpoint(checkpoint)
        self.restored = True
        clock = checkpoint.get("clock", {})
        self.step, self.images_seen = clock.get("step", 0), clock.get("images_seen", 0)
        self._newest = dict(checkpoint.get("newest_values", {}))

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Log a value. Numbers stay on the host: Lightning would copy each to the device and wait for it."""
        if isinstance(value, int | float) and not options.get("sync_dist"):
            value = torch.tensor(float(value))
        super().log(name, value, *args, **options)

    def log_step(self, **values: Tensor | float | None) -> None:
        """Log the losses of a training step to the progress bar and the loggers, averaged over ranks, with kimg and step.

        None, for what this step does not compute, logs the newest value, also after a resume.
        """
        self.losses = _computed(values)
        self.log_dict(self._newest_values(values), prog_bar=True)
        self.log_dict({"kimg": self.kimg, "step": float(self.step)})

    def log_extra(self, **values: Tensor | float | None) -> None:
        """Log further values of a training step to the loggers only, as :meth:`log_step` does."""
        self.log_dict(self._newest_values(values))

    def _newest_values(self, values: dict[str, Tensor | float | None]) -> dict[str, Tensor | float]:
        self._newest |= mean_over_ranks(_computed(values))
        return {name: self._newest[name] for name in values if name in self._newest}

    def log_clock(self) -> None:
        """Log kimg and step with the metrics of an evaluation."""
        self.log_dict({"kimg": self.kimg, "step": float(self.step)}, sync_dist=True)

    def step_optimizer(self, optimizer: Any, loss: Tensor, *args: Any, **options: Any) -> None:
        """Backpropagate a loss and make one step of one optimizer. Further arguments are those of ``Tensor.backward``.

        Averages the gradients of this optimizer's weights over ranks, each once. DDP's hooks are bypassed: they expect one
        backward pass per step that reaches every weight, which no GAN has.
        """
        optimizer.zero_grad(set_to_none=True)
        if self.world_size == 1:
            with forward_precision(self.device):
                self.manual_backward(loss, *args, **options)
        else:
            strategy = self.trainer.strategy
            assert isinstance(strategy, DDPStrategy)  # checked by setup
            with strategy.block_backward_sync(), forward_precision(self.device):
                self.manual_backward(loss, *args, **options)
            average_gradients(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()

    def cosine_lr(self, optimizer: Any) -> None:
        """Decay the learning rate to 0 along a cosine over the run. Call this before each optimizer step.

        Set ``decays_over_run``: such a run cannot be made longer.
        """
        steps = self.trainer.estimated_stepping_batches  # of all epochs; -1 for a loader without end
        progress = min(1.0, self.step / steps) if steps > 0 else 0.0
        for group in optimizer.param_groups:
            initial = group.setdefault("initial_lr", group["lr"])
            group["lr"] = initial * (0.5 + 0.5 * math.cos(math.pi * progress))
