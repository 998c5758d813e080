"""Starting points: the most similar of many generated images in each sector of viewpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from renderers import Camera
from trainer.inversion.models import InvertibleGenerator
from trainer.inversion.optimization import Candidates, Targets
from utils.progress import Progress

BATCH = 16
LEVELS = (1, 2, 3)  # halvings of the images that are compared


@dataclass(frozen=True)
class StartBank:
    """Images of samples from known viewpoints.

    Args:
        latent: ``(L, P)``.
        camera: ``(M,)`` viewpoints, ``M = L V``: V of each latent, one in each of V equal sectors of azimuth.
        features: of the images, see :func:`image_features`.
    """

    latent: Tensor
    camera: Camera
    features: list[Tensor]

    @classmethod
    @torch.no_grad()
    def generate(cls, model: InvertibleGenerator, latents: int, sectors: int, seed: int = 0) -> StartBank:
        """Render ``latents`` samples with OpenGL from one random viewpoint in each of ``sectors`` sectors of azimuth."""
        generator = torch.Generator().manual_seed(seed)
        latent = model.sample(latents, generator)
        low, high = model.views.azimuth
        azimuth = (
            low + (high - low) * (torch.arange(sectors) + torch.rand(latents, sectors, generator=generator)) / sectors
        )
        below, above = model.views.elevation
        elevation = below + (above - below) * torch.rand(latents, sectors, generator=generator)
        camera = Camera(azimuth.flatten(), elevation.flatten(), model.views.fov).to(latent.device)
        parts = []
        with Progress(latents, "rendering starting points", "sample") as bar:
            for first in range(0, latents, BATCH):
                part = slice(first, min(first + BATCH, latents))
                rendering = model.verify(latent[part], camera[slice(part.start * sectors, part.stop * sectors)])
                parts.append(image_features(rendering.image.to(latent.device)))
                bar.update(part.stop - part.start)
        return cls(latent, camera, [torch.cat(level) for level in zip(*parts, strict=True)])

    def nearest(self, targets: Targets) -> Candidates:
        """Return the sample and viewpoint of the nearest image in each of the V sectors of azimuth, as starts."""
        sectors = len(self.camera) // len(self.latent)
        errors = feature_errors(image_features(targets.image), self.features)
        latent = errors.view(len(targets), len(self.latent), sectors).argmin(1)  # n, V
        view = latent * sectors + torch.arange(sectors, device=latent.device)
        return Candidates(self.latent[latent], self.camera.azimuth[view], self.camera.elevation[view])


@torch.no_grad()
def nearest_latents(
    model: InvertibleGenerator, latents: Float[Tensor, "L P"], targets: Targets, camera: Camera, count: int
) -> Candidates:
    """Return the ``count`` latents whose OpenGL images from the known viewpoint of each target are nearest, as starts."""
    rows = []
    for i in range(len(targets)):
        parts = [
            image_features(model.verify(part, expand(camera[slice(i, i + 1)], len(part))).image.to(latents.device))
            for part in latents.split(BATCH)
        ]
        features = [torch.cat(level) for level in zip(*parts, strict=True)]
        rows.append(feature_errors(image_features(targets.image[i : i + 1]), features)[0].argsort()[:count])
    index = torch.stack(rows)
    azimuth, elevation = (a[:, None].expand(index.shape) for a in (camera.azimuth, camera.elevation))
    return Candidates(latents[index], azimuth, elevation)


def expand(camera: Camera, count: int) -> Camera:
    """Return one camera ``count`` times."""
    return Camera(camera.azimuth.expand(count), camera.elevation.expand(count), camera.fov)


def image_features(image: Float[Tensor, "n C S S"]) -> list[Float[Tensor, "n F"]]:
    """Return the images halved once, twice and three times, flat."""
    return [F.avg_pool2d(image, 2**level).flatten(1) for level in LEVELS]


def feature_errors(targets: list[Float[Tensor, "n F"]], others: list[Float[Tensor, "M F"]]) -> Float[Tensor, "n M"]:
    """Return the mean over levels of ``|x - t|² / |t|²``."""
    errors = []
    for t, x in zip(targets, others, strict=True):
        power = t.square().sum(1, keepdim=True)
        errors.append((power - 2 * t @ x.T + x.square().sum(1)) / power.clamp(min=1e-6))
    return torch.stack(errors).mean(0)
