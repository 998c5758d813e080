"""The loggers of a command: where they write, and which Weights & Biases run a training continues."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from trainer.runs.run_directory import RunDirectory

WANDB = ("WandbRun", "WandbLogger")  # loggers that resume a run by its id
WANDB_VARIABLES = {
    **{name: f"WANDB_{name.upper()}" for name in ("project", "entity", "name")},
    "id": "WANDB_RUN_ID",
    "group": "WANDB_RUN_GROUP",
}


def as_list(value: Any) -> list[Any]:
    """A trainer option that takes None, one object or a list, as a list."""
    return value if isinstance(value, list) else [] if value in (None, True, False) else [value]


def configure_loggers(
    trainer: jsonargparse.Namespace, folder: Path, run: RunDirectory | None = None, options: Sequence[str] = ()
) -> None:
    """Let loggers write into ``folder`` unless the config names another one.

    Weights & Biases resumes its run. Its options come from the command line, the environment and the config, in this order.

    Args:
        trainer: The section of the config, changed in place.
        folder: The output directory.
        run: The run of a training on rank 0.
        options: The keys given on the command line.
    """
    for logger in as_list(trainer.logger):
        arguments = logger.get("init_args") if isinstance(logger, jsonargparse.Namespace) else None
        if arguments is not None and "save_dir" in arguments and arguments.save_dir in (None, "."):
            arguments.save_dir = str(folder)
        if run and arguments is not None and logger.class_path.endswith(WANDB):
            names = {key.rpartition(".")[2] for key in options if key.startswith("trainer.logger.")}
            given = {name: arguments[name] for name in names & WANDB_VARIABLES.keys()}
            variables = {name: os.environ.get(variable) for name, variable in WANDB_VARIABLES.items()}
            found = {"id": arguments.id} if arguments.id else {}
            found |= {name: value for name, value in variables.items() if value and name in arguments}
            for name, value in run.wandb_settings(given, found).items():
                arguments[name] = value


def remove_wandb(trainer: jsonargparse.Namespace) -> None:
    """Keep the metrics of commands other than ``fit`` out of the training's Weights & Biases run."""
    loggers = as_list(trainer.logger)
    kept = [x for x in loggers if not (isinstance(x, jsonargparse.Namespace) and x.class_path.endswith(WANDB))]
    if len(kept) < len(loggers):
        trainer.logger = kept or None
