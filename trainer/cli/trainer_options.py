"""Which of Lightning's Trainer options and callbacks work, checked before data and networks are built.

:data:`LIMITS` is the one list; ``docs/trainer.md`` shows it as the table that :func:`markdown` writes. Options that are not
in it have no limits.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning import Trainer, callbacks
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules.base import RunDataModule
from datamodules.samplers import BatchPlan
from lightning_modules.base import ClockedModule
from utils.errors import InputError
from utils.launch import launch

MODULES, DATA, ALL = "the modules of this project", "the data modules of this project", "everything"
SINGLE_DEVICE = ("auto", "single_device")
DDP = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")
SPAWNED = ("ddp_spawn", "ddp_fork", "ddp_notebook")
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "None")
REFUSED_CALLBACKS: dict[type[callbacks.Callback], str] = {
    callbacks.GradientAccumulationScheduler: "each network has its own optimizer step; set a larger data.batch_size",
    callbacks.StochasticWeightAveraging: "generators have an EMA already; set model.ema_half_life_kimg",
    callbacks.WeightAveraging: "generators have an EMA already; set model.ema_half_life_kimg",
    callbacks.LearningRateFinder: "there are several optimizers; set the learning rate of each in the model",
    callbacks.BatchSizeFinder: "the batch size determines the steps of the run; set data.batch_size",
    callbacks.ModelPruning: "exports and the EMA need complete weights; remove the callback",
    callbacks.BaseFinetuning: "the modules have no backbone to freeze; remove the callback",
}


@dataclass(frozen=True)
class Limit:
    """Values of a trainer option that do not work.

    Args:
        option: The option without ``trainer.``.
        scope: What it holds for: :data:`MODULES`, :data:`DATA` or :data:`ALL`.
        refuses: Whether it refuses a value.
        supported: The values that work, for the table.
        cure: Why, and what to do instead.
    """

    option: str
    scope: str
    refuses: Callable[[Any], bool]
    supported: str
    cure: str


def _spawns(strategy: str | Strategy) -> bool:
    return strategy in SPAWNED or getattr(strategy, "_start_method", "popen") not in (None, "popen")


def _shards(strategy: str | Strategy) -> bool:
    if isinstance(strategy, Strategy):
        return not isinstance(strategy, DDPStrategy | SingleDeviceStrategy)
    return strategy not in (*SINGLE_DEVICE, *DDP)


LIMITS = (
    Limit(
        "strategy",
        ALL,
        _spawns,
        f"not {', '.join(SPAWNED)}",
        "ranks must run the same command; use ddp",
    ),
    Limit(
        "strategy",
        MODULES,
        _shards,
        f"{', '.join((*SINGLE_DEVICE, *DDP))}",
        "each rank needs all weights of the networks; use ddp",
    ),
    Limit(
        "precision",
        MODULES,
        lambda value: str(value) not in PRECISIONS,
        "32-true, bf16-mixed",
        "renderers and losses need float32, and gradients the range of bfloat16; use bf16-mixed or 32-true",
    ),
    Limit(
        "accumulate_grad_batches",
        MODULES,
        lambda value: value != 1,
        "1",
        "each network has its own optimizer step; set a larger data.batch_size",
    ),
    Limit(
        "gradient_clip_val",
        MODULES,
        lambda value: value is not None,
        "null",
        "each network has its own optimizer step, without clipping; unset it",
    ),
    Limit(
        "gradient_clip_algorithm",
        MODULES,
        lambda value: value is not None,
        "null",
        "each network has its own optimizer step, without clipping; unset it",
    ),
    Limit(
        "sync_batchnorm",
        MODULES,
        bool,
        "false",
        "batch norm uses the images of all ranks already; unset it",
    ),
    Limit(
        "overfit_batches",
        DATA,
        bool,
        "0",
        "the order of the data is part of the run; set a small data.images instead",
    ),
    Limit(
        "max_epochs",
        DATA,
        lambda value: value not in (1, None),
        "1",
        "one epoch is the whole run; set its length by data.total_kimg",
    ),
    Limit(
        "val_check_interval",
        ALL,
        lambda value: value == 0,
        "not 0",
        "it is the steps, or the fraction of the run, between evaluations; set trainer.limit_val_batches to 0 for none",
    ),
    Limit(
        "check_val_every_n_epoch",
        ALL,
        lambda value: value is not None and value < 1,
        "at least 1",
        "it is a number of epochs; set trainer.limit_val_batches to 0 for no evaluations",
    ),
    Limit(
        "log_every_n_steps",
        ALL,
        lambda value: value is not None and value < 0,
        "at least 0",
        "it is a number of steps; set it to 50",
    ),
    Limit(
        "default_root_dir",
        ALL,
        lambda value: value is not None,
        "null",
        "files are in the run directory; set it by --run_dir",
    ),
    Limit(
        "barebones",
        ALL,
        bool,
        "false",
        "it excludes logs and checkpoints, which a run consists of; unset it",
    ),
)


def check(trainer: Namespace, model: type, data: type, data_arguments: Namespace | None) -> Trainer:
    """Check the trainer section of a config, and build its trainer without loggers and callbacks.

    That trainer knows the rank of this process and the number of ranks. Lightning's ``rank_zero_only`` is set to it, since
    it is guessed from environment variables before. One epoch is the default for the project's data modules.

    Args:
        trainer: The section; ``max_epochs`` is set in place.
        model: Class of the model.
        data: Class of the data module.
        data_arguments: Arguments of the data module.

    Raises:
        InputError: An option or a callback does not work here, or does not fit how the process was started.
    """
    scopes = {ALL, *([MODULES] if issubclass(model, ClockedModule) else [])}
    if issubclass(data, RunDataModule):
        scopes.add(DATA)
        if trainer.max_epochs is None:
            trainer.max_epochs = 1
    for limit in LIMITS:
        value = _built(trainer.get(limit.option))
        if limit.scope in scopes and limit.refuses(value):
            raise InputError(f"trainer.{limit.option} cannot be {_name(value)} for {model.__name__}: {limit.cure}")
    if MODULES in scopes:
        for callback in _classes(trainer.callbacks):
            for refused, cure in REFUSED_CALLBACKS.items():
                if issubclass(callback, refused):
                    raise InputError(
                        f"trainer.callbacks: {callback.__name__} does not work with {model.__name__}: {cure}"
                    )
    if DATA in scopes and data_arguments is not None:
        _check_interval(trainer, data_arguments)
    return _probe(trainer)


def _check_interval(trainer: Namespace, data: Namespace) -> None:
    """Check that evaluations are not further apart than the run is long."""
    interval, batch_size, kimg = _count(trainer.val_check_interval), data.get("batch_size"), data.get("total_kimg")
    evaluates = trainer.limit_val_batches != 0 and not trainer.fast_dev_run
    if interval is None or not evaluates or trainer.check_val_every_n_epoch is None or not (batch_size and kimg):
        return
    changes = [(1000 * start, size) for start, size in data.get("batch_changes") or ()]
    steps = BatchPlan(batch_size, 1000 * kimg, changes).steps
    limit = trainer.limit_train_batches
    if limit is not None:
        count = _count(limit)
        steps = min(steps, int(steps * limit) if count is None else count)
    if interval > steps:
        raise InputError(
            f"trainer.val_check_interval {interval:,} is more than the {steps:,} steps of the run; set it to at most "
            f"{steps:,}, or to a fraction such as 0.1"
        )


def _count(value: Any) -> int | None:
    """Return a number of batches as Lightning reads it; None for a fraction, or for what is not a number."""
    return int(value) if type(value) is int or (isinstance(value, float) and value > 1 and value.is_integer()) else None


def _probe(options: Namespace) -> Trainer:
    """Build the trainer without what needs a run directory.

    Raises:
        InputError: Lightning's message about an option, or another number of processes was started.
    """
    values = {
        key: _built(value)
        for key, value in vars(options).items()
        if key not in ("profiler", "logger", "callbacks", "model_registry")
    }
    values["plugins"] = [
        plugin
        for plugin in map(_built, options.plugins if isinstance(options.plugins, list) else [options.plugins])
        if isinstance(plugin, ClusterEnvironment)
    ]
    values |= dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    if values["accelerator"] in ("gpu", "cuda") and not (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    ):
        hidden = ": CUDA_VISIBLE_DEVICES hides all" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else ""
        raise InputError(
            f"trainer.accelerator is {values['accelerator']}, but no GPU is available{hidden}; set "
            "--trainer.accelerator=cpu, or run unrender doctor"
        )
    try:
        trainer = Trainer(**values)
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        message = " ".join(str(error).split())[:300]
        option = next((name for name in re.findall(r"[`(](\w+)", message) if name in values), None)
        start = f"trainer.{option} cannot be {_name(values[option])}" if option else "trainer"
        raise InputError(f"{start}: {message}") from error
    started = launch()
    if started.processes > 1 and trainer.world_size != started.processes:
        raise InputError(
            f"{started.name} started {started.processes} processes, but the trainer has {trainer.world_size}; set "
            "--trainer.num_nodes and --trainer.devices (processes per node), and --trainer.strategy=ddp"
        )
    rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
    return trainer


def is_alone(trainer: Trainer) -> bool:
    """Return whether this process starts all others itself, if there are any."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = environment is not None and environment.creates_processes_externally
    return trainer.world_size == 1 or (trainer.num_nodes == 1 and not launched)


def _built(value: Any) -> Any:
    """Return an option's value, an object if the config names its class."""
    if not isinstance(value, Namespace) or "class_path" not in value:
        return value
    arguments = value.get("init_args") or {}
    return _import(value.class_path)(**dict(vars(arguments) if isinstance(arguments, Namespace) else arguments))


def _classes(value: Any) -> Iterator[type]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Namespace) and "class_path" in item:
            yield _import(item.class_path)


def class_of(value: Any) -> type | None:
    """Return the class that a section of a config names."""
    return next(_classes(value), None)


def _import(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _name(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Strategy) else str(value)


def markdown() -> str:
    """Return the table of ``docs/trainer.md``."""
    lines = ["| option | supported | for | otherwise |", "|---|---|---|---|"]
    lines += [f"| `{x.option}` | {x.supported} | {x.scope} | {x.cure} |" for x in LIMITS]
    lines += [
        f"| `callbacks` | not {callback.__name__} | {MODULES} | {cure} |"
        for callback, cure in REFUSED_CALLBACKS.items()
    ]
    interval = "a fraction, a time, or at most the steps of the run"
    lines.append(f"| `val_check_interval` | {interval} | {DATA} | the message has the number of steps |")
    return "\n".join(lines)
