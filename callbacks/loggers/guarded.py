"""A wrapper around the loggers other than ``metrics.csv``: it logs images and meshes, and its failures never stop a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jaxtyping import Float
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from renderers import InputError

IMAGES_FOLDER = "images"  # groups of keys in dashboards
SHAPES_FOLDER = "shapes"


class GuardedLogger(Logger):
    """Wraps any Lightning logger. If it fails, training continues and the first failure prints a one-line warning.

    Later calls are still tried, because networks and disks recover.

    Args:
        inner: the logger. It can log images if it has ``log_image_at(name, image, position)``,
            ``log_image(key, images, step)`` or an ``experiment`` with ``add_image`` (TensorBoard), and meshes if it has
            ``log_shapes(name, files, position)``.
    """

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self.inner: Any = inner
        self._failed = False

    @property
    def name(self) -> str | None:
        return self._try(lambda: self.inner.name)

    @property
    def version(self) -> int | str | None:
        return self._try(lambda: self.inner.version)

    @property
    def save_dir(self) -> str | None:
        return self._try(lambda: self.inner.save_dir)

    @property
    def experiment(self) -> Any:
        return self._try(lambda: getattr(self.inner, "experiment", None))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._try(lambda: self.inner.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try(lambda: self.inner.log_hyperparams(params, *args, **kwargs))

    def log_graph(self, *args: Any) -> None:
        """Do nothing: a GAN step has no single graph from batch to loss."""

    def save(self) -> None:
        self._try(self.inner.save)

    def finalize(self, status: str) -> None:
        self._try(lambda: self.inner.finalize(status))

    @rank_zero_only
    def log_image(self, name: str, image: Float[Tensor, "C H W"], position: dict[str, float]) -> None:
        """Log an image in [0, 1] at a position, its ``kimg`` and ``step``."""
        self._try(lambda: self._log_image(f"{IMAGES_FOLDER}/{name}", image.detach().cpu().clamp(0, 1), position))

    @property
    def supports_shapes(self) -> bool:
        return hasattr(self.inner, "log_shapes")

    @rank_zero_only
    def log_shapes(self, name: str, files: list[Path], position: dict[str, float]) -> None:
        """Log GLB files as interactive 3D objects at a position, its ``kimg`` and ``step``."""
        self._try(lambda: self.inner.log_shapes(f"{SHAPES_FOLDER}/{name}", files, position))

    @rank_zero_only
    def close(self, status: str) -> None:
        """Close the logger at the end of a command; ``status`` is ``finished``, ``interrupted`` or ``failed``."""
        if hasattr(self.inner, "close"):
            self._try(lambda: self.inner.close(status))

    def _log_image(self, name: str, image: Tensor, position: dict[str, float]) -> None:
        if hasattr(self.inner, "log_image_at"):
            self.inner.log_image_at(name, image, position)
        elif hasattr(self.inner, "log_image"):
            self.inner.log_image(name, [image], step=int(position["step"]))
        elif hasattr(self.inner.experiment, "add_image"):
            self.inner.experiment.add_image(name, image, int(position["step"]))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InputError:
            raise
        except Exception as error:
            if not self._failed:
                self._failed = True
                reason = (str(error).strip().splitlines() or [""])[0]
                warning = f"warning: {type(self.inner).__name__} failed ({type(error).__name__}: {reason[:200]})"
                with suppress(OSError):
                    print(f"{warning}; training continues, metrics.csv is complete", file=sys.stderr, flush=True)
            return None


def guarded_loggers(trainer: pl.Trainer) -> list[GuardedLogger]:
    """Return the loggers of a trainer that can log images and meshes."""
    return [logger for logger in trainer.loggers if isinstance(logger, GuardedLogger)]
