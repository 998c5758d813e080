"""Depth, normals and silhouettes of generated meshes from the front, for data with known geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from metrics.depth import measure_depth
from renderers import InputError, Rendering

DEPTH_SAMPLES = 256  # samples that depth is measured on


class FrontReferences:
    """Renders from the front of a data module's held-out scenes, kept from one evaluation to the next.

    Held-out scenes with known geometry have a method ``canonical(indices)``, see
    :class:`datamodules.synthetic_heads.HeadImages`.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, int] | None = None
        self._renders: Rendering | None = None

    @property
    def count(self) -> int:
        """The number of renders that the last evaluation was made with, 0 for data without known geometry."""
        return 0 if self._renders is None else len(self._renders.image)

    def of(self, datamodule: Any) -> Rendering | None:
        """Return the renders, at most ``DEPTH_SAMPLES``, fewer under ``fast_dev_run``; None without known geometry."""
        held_out: Any = getattr(datamodule, "held_out", None)
        if not hasattr(held_out, "canonical"):
            self._key = self._renders = None
            return None
        needed = getattr(datamodule, "needed", int)
        key = held_out, needed(min(DEPTH_SAMPLES, datamodule.reference_images))
        if key != self._key:
            self._key, self._renders = key, held_out.canonical(list(range(key[1])))
        return self._renders


def measure_front(
    parts: Sequence[Rendering], references: Rendering, renderer: Any, datamodule: Any
) -> dict[str, float]:
    """Return :func:`measure_depth` of generated renders, given in parts, against the references; computed on the CPU.

    Raises:
        InputError: a renderer that returns no depth or no normals.
    """
    if any(part.depth is None or part.normals is None for part in parts):
        raise InputError(
            f"evaluations on {type(datamodule).__name__} measure depth and normals, which the renderer "
            f"{type(renderer).__name__} does not return; use SoftRasterizer"
        )
    names = [field.name for field in fields(Rendering)]
    samples = Rendering(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in names))
    return measure_depth(samples, Rendering(*(getattr(references, name).cpu() for name in names)))
