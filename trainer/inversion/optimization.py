"""Optimization of latents and viewpoints from several starting viewpoints at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from renderers import Camera, Rendering
from trainer.inversion.models import InvertibleGenerator

LEVELS = 4  # of the image pyramid, each half the size of the one before
SILHOUETTE = 1.0  # weight of the silhouette's error relative to the image's
LATENT_RATE, ANGLE_RATE = 0.1, 2.0  # initial learning rates of Adam, of latents and of degrees
FRAMES = 24  # of an optimization, kept for its film


@dataclass(frozen=True)
class Targets:
    """Images to invert.

    Args:
        image: ``(n, C, S, S)`` in [0, 1], over black where a silhouette is known.
        alpha: ``(n, 1, S, S)`` in [0, 1], the silhouette; anything where it is not known.
        masked: ``(n,)``, 1 where the silhouette is known, else 0.
    """

    image: Tensor
    alpha: Tensor
    masked: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Tensor | slice) -> Targets:
        return Targets(self.image[index], self.alpha[index], self.masked[index])

    def to(self, device: torch.device | str) -> Targets:
        return Targets(self.image.to(device), self.alpha.to(device), self.masked.to(device))


@dataclass(frozen=True)
class Candidates:
    """Latents and viewpoints, k for each of n images.

    Args:
        latent: ``(n, k, P)``.
        azimuth, elevation: ``(n, k)`` degrees.
    """

    latent: Tensor
    azimuth: Tensor
    elevation: Tensor

    def __getitem__(self, index: slice) -> Candidates:
        """Return the candidates of some images."""
        return Candidates(self.latent[index], self.azimuth[index], self.elevation[index])

    def camera(self, fov: float | None) -> Camera:
        """Return the cameras of all candidates, flat."""
        return Camera(self.azimuth.flatten(), self.elevation.flatten(), fov)

    def select(self, index: Int[Tensor, "n m"]) -> Candidates:
        """Return m candidates of each image."""
        latent = self.latent.gather(1, index[..., None].expand(-1, -1, self.latent.shape[-1]))
        return Candidates(latent, self.azimuth.gather(1, index), self.elevation.gather(1, index))


def image_errors(rendering: Rendering, targets: Targets) -> Float[Tensor, " n"]:
    """Return the error of each rendering, relative to its target.

    The error is the squared difference at several scales::

        sum_l |down^l(x) - down^l(t)|² / |down^l(t)|² / L

    and the same for the silhouette where it is known. ``down`` halves the size by averaging. Coarse levels have a gradient
    where shapes do not overlap yet. Where the silhouette is known, a black image has the error 2, otherwise 1.
    """
    error = _pyramid_error(rendering.image, targets.image)
    return error + SILHOUETTE * targets.masked * _pyramid_error(rendering.alpha, targets.alpha)


def _pyramid_error(image: Float[Tensor, "n C S S"], target: Float[Tensor, "n C S S"]) -> Float[Tensor, " n"]:
    errors = []
    for level in range(LEVELS):
        if level:
            image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
        power = target.square().flatten(1).sum(1).clamp(min=1e-3)
        errors.append((image - target).square().flatten(1).sum(1) / power)
    return torch.stack(errors).mean(0)


def optimize(
    model: InvertibleGenerator,
    targets: Targets,
    starts: Candidates,
    steps: int,
    *,
    fixed_view: bool = False,
    observe: Callable[[], None] | None = None,
) -> tuple[Candidates, Float[Tensor, " n"], Candidates]:
    """Optimize latents and viewpoints by Adam through the model's differentiable renderer.

    After a quarter and half of the steps, the half of each image's candidates with the greater error is dropped. Learning
    rates fall to 0 along a cosine. Of the remaining candidates and their starts, the one whose OpenGL image has the smallest
    error wins.

    Args:
        model: the generator.
        targets: n images.
        starts: k starts of each.
        steps: number of steps.
        fixed_view: whether the viewpoints stay as they are.
        observe: called after each step.

    Returns:
        The winners, with k = 1; the errors of their OpenGL images; and the trajectory of each winner from its start to
        its end, as about :data:`FRAMES` snapshots ``(n, snapshots)``.
    """
    views = model.views
    begin = current = starts
    drops = {steps // 4, steps // 2} - {0}
    trajectory: list[Candidates] = []
    errors = torch.empty(0)
    parameters, optimizer = _start(current, fixed_view)
    for step in range(steps):
        if step in drops and current.latent.shape[1] > 1:
            keep = errors.detach().view(len(targets), -1).argsort(1)[:, : -(-current.latent.shape[1] // 2)]
            begin, trajectory = begin.select(keep), [snapshot.select(keep) for snapshot in trajectory]
            parameters, optimizer = _keep(parameters, optimizer, keep, fixed_view)
        current = Candidates(*parameters)
        if step % max(1, steps // FRAMES) == 0:
            trajectory.append(Candidates(*(x.detach().clone() for x in parameters)))
        n, k = current.azimuth.shape
        latent, index = current.latent.flatten(0, 1), torch.arange(n, device=targets.image.device).repeat_interleave(k)
        errors = image_errors(model.render(latent, current.camera(views.fov)), targets[index])
        optimizer.zero_grad(set_to_none=True)
        (errors + model.penalty(latent)).sum().backward()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * _cosine(step / steps)
        optimizer.step()
        with torch.no_grad():
            parameters[0].copy_(model.constrain(parameters[0].flatten(0, 1)).view_as(parameters[0]))
            if not fixed_view:
                _limit(parameters[1], views.azimuth)
                _limit(parameters[2], views.elevation)
        if observe is not None:
            observe()
    # The differentiable renderer is not OpenGL: a start that matches well can be better than what became of it.
    ends = _join([Candidates(*(x.detach() for x in parameters)), begin])
    error, best = opengl_errors(model, targets, ends).min(1)
    winner = ends.select(best[:, None])
    candidate = best[:, None] % parameters[1].shape[1]
    return winner, error, _join([*(snapshot.select(candidate) for snapshot in trajectory), winner])


def _join(parts: Sequence[Candidates]) -> Candidates:
    """Concatenate the candidates of each image."""
    return Candidates(*(torch.cat([getattr(p, name) for p in parts], 1) for name in ("latent", "azimuth", "elevation")))


@torch.no_grad()
def opengl_errors(model: InvertibleGenerator, targets: Targets, candidates: Candidates) -> Float[Tensor, "n k"]:
    """Return :func:`image_errors` of the candidates' OpenGL images."""
    n, k = candidates.azimuth.shape
    rendering = model.verify(candidates.latent.flatten(0, 1), candidates.camera(model.views.fov))
    index = torch.arange(n, device=targets.image.device).repeat_interleave(k)
    return image_errors(
        Rendering(*(x.to(index.device) for x in (rendering.image, rendering.alpha))), targets[index]
    ).view(n, k)


def _cosine(progress: float) -> float:
    return float(0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * progress)))


def _start(starts: Candidates, fixed_view: bool) -> tuple[list[Tensor], torch.optim.Adam]:
    parameters = [x.detach().clone().requires_grad_() for x in (starts.latent, starts.azimuth, starts.elevation)]
    for angle in parameters[1:]:
        angle.requires_grad_(not fixed_view)
    groups = [{"params": parameters[:1], "lr": LATENT_RATE}]
    if not fixed_view:
        groups.append({"params": parameters[1:], "lr": ANGLE_RATE})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return parameters, optimizer


def _keep(
    parameters: list[Tensor], optimizer: torch.optim.Adam, keep: Int[Tensor, "n m"], fixed_view: bool
) -> tuple[list[Tensor], torch.optim.Adam]:
    """Return the parameters of some candidates, and an optimizer with their moments."""
    kept, replaced = _start(Candidates(*parameters).select(keep), fixed_view)
    for old, new in zip(parameters, kept, strict=True):
        if state := optimizer.state.get(old):
            index = keep[..., None].expand(-1, -1, old.shape[-1]) if old.dim() == 3 else keep
            moments = {name: state[name].gather(1, index) for name in ("exp_avg", "exp_avg_sq")}
            replaced.state[new] = {"step": state["step"], **moments}
    return kept, replaced


def _limit(angle: Tensor, limits: tuple[float, float]) -> None:
    """Clamp angles in place to the range of training, unless it is a full turn."""
    low, high = limits
    if high - low < 360:
        angle.clamp_(low, high)
