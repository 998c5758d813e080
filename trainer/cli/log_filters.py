"""A run starts with our lines, not with the frameworks' advertisements and warnings about what is as it should be."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning_fabric.utilities.warnings import PossibleUserWarning

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r"This DataLoader will create .* worker processes in total.*",
    r".*have no `prepare_data`.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
    r".*`Trainer\(.*\)` was configured.*",
    r".*exists and is not empty.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back Lightning's notices and its guesses at mistakes while a command runs."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
