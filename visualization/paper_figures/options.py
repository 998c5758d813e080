"""What figures show, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_modules.generative import GenerativeModule
from renderers import InputError, ViewDistribution
from visualization.paper_figures.layout import Figure

BATCH = 16


class FigureUnavailableError(InputError):
    """This model, these data or this choice give nothing for a figure."""


@dataclass(frozen=True)
class FigureOptions:
    """What figures show. Samples go by number, as in ``predict``: with one seed they are the same in both.

    Args:
        rows: of a figure, as far as it is free in that.
        columns: likewise.
        numbers: the samples of figures that show one a row; None is the first ones.
        views: where samples of voxels are seen from; None is the module's.
        zoom: of voxels, which fill the middle of the frame: it is cropped to a part 1 / zoom as wide.
        psis: of the truncation sweep.
        seed: of the viewpoints of grids.
    """

    rows: int = 6
    columns: int = 8
    numbers: tuple[int, ...] | None = None
    views: ViewDistribution | None = None
    zoom: float = 1.0
    psis: tuple[float, ...] = (1.0, 0.7, 0.5, 0.2, 0.0, -0.5)
    seed: int = 0

    @property
    def few(self) -> list[int]:
        """The samples of a figure that shows one a row."""
        return list(range(self.rows)) if self.numbers is None else list(self.numbers)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """What is interpolated: each sample and the next.

        Raises:
            FigureUnavailableError: one number alone.
        """
        few = list(range(self.rows + 1)) if self.numbers is None else list(self.numbers)
        if len(few) < 2:
            raise FigureUnavailableError("an interpolation needs at least two numbers")
        return list(pairwise(few))


FigureFunction: TypeAlias = Callable[[GenerativeModule, FigureOptions], Figure]  # may raise FigureUnavailableError


def in_rows(images: Float[Tensor, "N C h w"], columns: int) -> list[list[Tensor]]:
    """Images in reading order to rows."""
    return [list(images[i : i + columns]) for i in range(0, len(images), columns)]


def zoomed(images: Float[Tensor, "N C h w"], zoom: float) -> Float[Tensor, "N C s s"]:
    """The middle of images."""
    size = images.shape[-1]
    edge = round(size * (1 - 1 / zoom) / 2)
    edge = min(edge, (size - 1) // 2)
    return images[..., edge : size - edge, edge : size - edge]


def slerp(a: Float[Tensor, " Z"], b: Float[Tensor, " Z"], steps: int | Float[Tensor, " n"]) -> Float[Tensor, "n Z"]:
    """From a to b along the great circle: latents on the straight line between two are shorter than those of training.

    ``steps`` are so many of equal length, or places from 0, which is a, to 1.
    """
    t = (torch.linspace(0, 1, steps, device=a.device) if isinstance(steps, int) else steps)[:, None]
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()


def listed(numbers: list[int]) -> str:
    """Numbers in a caption."""
    return ", ".join(map(str, numbers))
