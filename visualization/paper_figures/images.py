"""Figures of generators of images, such as 2D-DCGAN, and of any other generator that has no figures of its own."""

from __future__ import annotations

import torch

from lightning_modules.generative import GenerativeModule
from visualization.paper_figures.choice import BATCH, Choice, Draw, in_rows, slerp
from visualization.paper_figures.sheet import Figure


def samples(module: GenerativeModule, choice: Choice) -> Figure:
    """Random samples."""
    z = module.sample_latents(torch.arange(choice.rows * choice.columns))
    images = torch.cat([module.generate_for_metrics(part, "figure") for part in z.split(BATCH)])
    return Figure("samples", in_rows(images, choice.columns), caption="Random samples.")


def interpolation(module: GenerativeModule, choice: Choice) -> Figure:
    """Between samples."""
    pairs = choice.pairs
    ends = [module.sample_latents(torch.tensor(pair)) for pair in pairs]
    return Figure(
        "interpolation",
        [list(module.generate_for_metrics(slerp(a, b, choice.columns), "figure")) for a, b in ends],
        rows=tuple(f"{a} – {b}" for a, b in pairs),
        caption="Along each row the latent turns from one sample's to another's.",
    )


IMAGE_FIGURES: dict[str, Draw] = {"samples": samples, "interpolation": interpolation}
