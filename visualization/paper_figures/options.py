"""Options and helpers that all figures share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from renderers import InputError, ViewDistribution
from visualization.paper_figures.layout import Figure

BATCH = 16


class FigureUnavailableError(InputError):
    """The model, the data or the options do not support a figure."""


@dataclass(frozen=True)
class FigureOptions:
    """What figures show. Samples are selected by number and are the samples of ``predict`` with the same seed.

    Args:
        rows: rows of figures that do not fix them.
        columns: columns of figures that do not fix them.
        numbers: samples of figures that show one per row; None takes the first ``rows``.
        views: viewpoints of voxel grids; None takes the module's.
        azimuth: of all images of grids in degrees; None samples one per row.
        elevation: the same for the elevation.
        zoom: crops images of voxel grids, which fill the centre of the frame, to a part 1 / zoom as wide.
        psis: values of ψ for the truncation figure.
        seed: seed of the viewpoints of grids.
    """

    rows: int = 6
    columns: int = 8
    numbers: tuple[int, ...] | None = None
    views: ViewDistribution | None = None
    azimuth: float | None = None
    elevation: float | None = None
    zoom: float = 1.0
    psis: tuple[float, ...] = (1.0, 0.7, 0.5, 0.2, 0.0, -0.5)
    seed: int = 0

    @property
    def row_numbers(self) -> list[int]:
        """The samples of a figure that shows one per row."""
        return list(range(self.rows)) if self.numbers is None else list(self.numbers)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of samples to interpolate: each sample and the next one.

        Raises:
            FigureUnavailableError: only one number.
        """
        numbers = list(range(self.rows + 1)) if self.numbers is None else list(self.numbers)
        if len(numbers) < 2:
            raise FigureUnavailableError("an interpolation needs at least two sample numbers; pass more")
        return list(pairwise(numbers))

    def view_distribution(self, views: ViewDistribution) -> ViewDistribution:
        """Return the viewpoints of grids: ``self.views`` or else ``views``, with the fixed azimuth and elevation."""
        views = self.views or views
        if self.azimuth is not None:
            views = replace(views, azimuth=(self.azimuth, self.azimuth))
        if self.elevation is not None:
            views = replace(views, elevation=(self.elevation, self.elevation))
        return views

    @property
    def view_note(self) -> str:
        """Describe the viewpoints of a grid for its caption."""
        if self.azimuth is not None and self.elevation is not None:
            return f"all from azimuth {self.azimuth:g}°, elevation {self.elevation:g}°"
        return "one viewpoint (azimuth, elevation) per row"


FigureFunction: TypeAlias = Callable[
    [Any, FigureOptions], Figure
]  # of a module or data; may raise FigureUnavailableError


def in_rows(images: Float[Tensor, "N C h w"], columns: int) -> list[list[Tensor]]:
    """Split images in reading order into rows."""
    return [list(images[i : i + columns]) for i in range(0, len(images), columns)]


def transpose(columns: Iterable[Iterable[Tensor]]) -> list[list[Tensor]]:
    """Turn columns of images into rows."""
    return [list(row) for row in zip(*columns, strict=True)]


def center_crop(images: Float[Tensor, "N C h w"], zoom: float) -> Float[Tensor, "N C s s"]:
    """Crop images to their centre, a part 1 / zoom as wide."""
    size = images.shape[-1]
    edge = round(size * (1 - 1 / zoom) / 2)
    edge = min(edge, (size - 1) // 2)
    return images[..., edge : size - edge, edge : size - edge]


def slerp(a: Float[Tensor, " Z"], b: Float[Tensor, " Z"], steps: int | Float[Tensor, " n"]) -> Float[Tensor, "n Z"]:
    """Interpolate latents along the great circle. On a straight line they would be shorter than in training.

    Args:
        a: first latent.
        b: last latent.
        steps: number of equidistant latents, or their positions from 0 (a) to 1 (b).
    """
    t = (torch.linspace(0, 1, steps, device=a.device) if isinstance(steps, int) else steps)[:, None]
    angle = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return torch.lerp(a, b, t)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()


def comma_separated(numbers: list[int]) -> str:
    """Format numbers for a caption."""
    return ", ".join(map(str, numbers))


def with_minus(text: str) -> str:
    """Replace hyphens by minus signs in a label."""
    return text.replace("-", "−")
