"""What commands print: the project's own lines, without notices and warnings of the frameworks that need no action."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.utilities.rank_zero import rank_zero_only

IGNORED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r"This DataLoader will create .* worker processes in total.*",
    r".*have no `prepare_data`.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
    r".*`Trainer\(.*\)` was configured.*",
    r".*exists and is not empty.*",
    r".*tensorboardX.*",
    r"Total length of .* across ranks is zero.*",
    r".*callbacks used to create the checkpoint need to be provided.*",
)


def global_rank() -> int:
    """Rank of this process, also before torch.distributed is initialized."""
    return rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function


def print_rank0(line: str) -> None:
    """Print a line on rank 0."""
    if global_rank() == 0:
        print(line, flush=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's notices and hints."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        for message in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
