"""Progressive growing (Karras et al. 2018): resolution and fade as functions of the images seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from utils.errors import InputError, check_number


@dataclass(frozen=True)
class GrowthPhase:
    """One resolution: first it fades in, then it trains alone.

    Args:
        resolution: N of the N x N images.
        fade_kimg: thousands of images during which it fades in; must be 0 for the first phase.
        stable_kimg: thousands of images after the fade; ignored for the last phase, which lasts until the run ends.
        lr_factor: factor on both learning rates; StyleGAN uses 1.5 at 128².
    """

    resolution: int
    fade_kimg: float = 600.0
    stable_kimg: float = 600.0
    lr_factor: float = 1.0


@dataclass(frozen=True)
class GrowthStage:
    """The state of growth at one point of a run.

    Args:
        resolution: N.
        fade: weight of this resolution over the previous one, in [0, 1]; 1 when it trains alone.
        segment: counts fades and stable parts; it changes where a fade begins or ends.
        lr_factor: factor on the learning rates.
    """

    resolution: int
    fade: float
    segment: int
    lr_factor: float


class Growth:
    """A sequence of phases.

    Args:
        phases: each has twice the resolution of the previous one.

    Raises:
        InputError: no phases, resolutions below 4 or that do not double, a first phase that fades, or numbers out of range.
    """

    def __init__(self, phases: Sequence[GrowthPhase]) -> None:
        sizes = [phase.resolution for phase in phases]
        for size in sizes:
            check_number("resolution of growth", size, at_least=4)
        if not sizes or sizes != [sizes[0] << i for i in range(len(sizes))]:
            raise InputError(f"the resolutions of growth must double from phase to phase, got {sizes}")
        if phases[0].fade_kimg:
            raise InputError(f"the first phase of growth cannot fade in; set its fade_kimg {phases[0].fade_kimg} to 0")
        for phase in phases:
            check_number("fade_kimg of growth", phase.fade_kimg, at_least=0)
            check_number("stable_kimg of growth", phase.stable_kimg, at_least=0)
            check_number("lr_factor of growth", phase.lr_factor, above=0)
        self.phases = tuple(phases)

    @property
    def resolution(self) -> int:
        """Resolution of the last phase."""
        return self.phases[-1].resolution

    def at(self, images: int) -> GrowthStage:
        """Return the stage after ``images`` images seen. In a fade the weight rises linearly from 0."""
        start = 0
        for i, phase in enumerate(self.phases):
            fade, stable = round(1000 * phase.fade_kimg), round(1000 * phase.stable_kimg)
            if images < start + fade:
                return GrowthStage(phase.resolution, (images - start) / fade, 2 * i, phase.lr_factor)
            if images < start + fade + stable or i == len(self.phases) - 1:
                break
            start += fade + stable
        return GrowthStage(phase.resolution, 1.0, 2 * i + 1, phase.lr_factor)
