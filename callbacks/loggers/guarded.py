"""Loggers beside ``metrics.csv``: what they are shown, and that none of them ever stops a run."""

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

IMAGES_FOLDER = "images"  # how guarded_loggers group what is no curve
SHAPES_FOLDER = "shapes"


class GuardedLogger(Logger):
    """Any of Lightning's loggers, behind a guard: what fails there is one warning line, and training goes on.

    The first failure is said, the later ones are not; each call is tried all the same, since networks and disks recover.

    Args:
        inner: the logger. What it can show beside numbers it says by a method ``log_image(key, images, step)`` or by an
            ``experiment`` with ``add_image`` (TensorBoard), and by ``log_shapes(key, files, step)``.
    """

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self.inner = inner
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
        """Nothing: a step of a GAN is no graph from one batch to one loss."""

    def save(self) -> None:
        self._try(self.inner.save)

    def finalize(self, status: str) -> None:
        self._try(lambda: self.inner.finalize(status))

    @rank_zero_only
    def log_image(self, name: str, image: Float[Tensor, "C H W"], clock: dict[str, float]) -> None:
        """An image in [0, 1], at the ``kimg`` and ``step`` of ``clock``."""
        self._try(lambda: self._show(f"{IMAGES_FOLDER}/{name}", image.detach().cpu().clamp(0, 1), clock))

    @property
    def takes_shapes(self) -> bool:
        return hasattr(self.inner, "log_shapes")

    @rank_zero_only
    def log_shapes(self, name: str, files: list[Path], clock: dict[str, float]) -> None:
        """GLB files as objects that can be turned, at the ``kimg`` and ``step`` of ``clock``."""
        self._try(lambda: self.inner.log_shapes(f"{SHAPES_FOLDER}/{name}", files, clock))

    @rank_zero_only
    def close(self, status: str) -> None:
        """The command ends; ``status`` is ``finished``, ``interrupted`` or ``failed``."""
        if hasattr(self.inner, "close"):
            self._try(lambda: self.inner.close(status))

    def _show(self, name: str, image: Tensor, clock: dict[str, float]) -> None:
        if hasattr(self.inner, "log_clocked_image"):
            self.inner.log_clocked_image(name, image, clock)
        elif hasattr(self.inner, "log_image"):
            self.inner.log_image(name, [image], step=int(clock["step"]))
        elif hasattr(self.inner.experiment, "add_image"):
            self.inner.experiment.add_image(name, image, int(clock["step"]))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InputError:
            raise
        except Exception as error:
            if not self._failed:
                self._failed = True
                reason = (str(error).strip().splitlines() or [""])[0]
                line = f"warning: {type(self.inner).__name__} failed ({type(error).__name__}: {reason[:200]})"
                with suppress(OSError):
                    print(f"{line}; training goes on, metrics.csv has the numbers", file=sys.stderr, flush=True)
            return None


def guarded_loggers(trainer: pl.Trainer) -> list[GuardedLogger]:
    """The loggers of a trainer that may be shown images and shapes."""
    return [logger for logger in trainer.loggers if isinstance(logger, GuardedLogger)]


def clock_of(module: Any) -> dict[str, float]:
    """When something is shown: ``kimg`` and ``step``."""
    return {"kimg": module.kimg, "step": float(module.step)}
