"""Figures of image generators such as 2D-DCGAN, and of any other generator without figures of its own."""

from __future__ import annotations

import torch

from lightning_modules.generative import GenerativeModule
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import BATCH, FigureFunction, FigureOptions, in_rows, slerp


def samples(module: GenerativeModule, options: FigureOptions) -> Figure:
    """Show random samples."""
    z = module.sample_latents(torch.arange(options.rows * options.columns))
    images = torch.cat([module.generate_for_metrics(part, "figure") for part in z.split(BATCH)])
    return Figure("samples", in_rows(images, options.columns), caption="Random samples.")


def interpolation(module: GenerativeModule, options: FigureOptions) -> Figure:
    """Interpolate between samples."""
    pairs = options.pairs
    ends = [module.sample_latents(torch.tensor(pair)) for pair in pairs]
    return Figure(
        "interpolation",
        [list(module.generate_for_metrics(slerp(a, b, options.columns), "figure")) for a, b in ends],
        rows=tuple(f"{a} – {b}" for a, b in pairs),
        caption="Each row interpolates spherically between the latents of two samples.",
    )


IMAGE_FIGURES: dict[str, FigureFunction] = {"samples": samples, "interpolation": interpolation}
