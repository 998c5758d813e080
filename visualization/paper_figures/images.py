"""Figures of generators of images, such as 2D-DCGAN, and of any other generator that has no figures of its own."""

from __future__ import annotations

import torch

from lightning_modules.generative import GenerativeModule
from visualization.paper_figures.layout import Figure
from visualization.paper_figures.options import BATCH, FigureFunction, FigureOptions, in_rows, slerp


def samples(module: GenerativeModule, choice: FigureOptions) -> Figure:
    """Random samples."""
    z = module.sample_latents(torch.arange(choice.rows * choice.columns))
    images = torch.cat([module.generate_for_metrics(part, "figure") for part in z.split(BATCH)])
    return Figure("samples", in_rows(images, choice.columns), caption="Random samples.")


def interpolation(module: GenerativeModule, choice: FigureOptions) -> Figure:
    """Between samples."""
    pairs = choice.pairs
    ends = [module.sample_latents(torch.tensor(pair)) for pair in pairs]
    return Figure(
        "interpolation",
        [list(module.generate_for_metrics(slerp(a, b, choice.columns), "figure")) for a, b in ends],
        rows=tuple(f"{a} – {b}" for a, b in pairs),
        caption="Along each row the latent turns from one sample's to another's.",
    )


IMAGE_FIGURES: dict[str, FigureFunction] = {"samples": samples, "interpolation": interpolation}
