"""Progressive growing (Karras et al. 2018): which resolution, and how far faded in, as a function of images seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from renderers import InputError


@dataclass(frozen=True)
class GrowthPhase:
    """One resolution: it fades in, then trains alone.

    Args:
        resolution: N of the N x N images.
        fade_kimg: thousand images over which it fades in; 0 for the first, which has nothing to fade from.
        stable_kimg: thousand images thereafter; the last phase lasts as long as the run.
        lr_factor: of both optimizers' learning rates; StyleGAN's are 1.5 times as large at 128².
    """

    resolution: int
    fade_kimg: float = 600.0
    stable_kimg: float = 600.0
    lr_factor: float = 1.0


@dataclass(frozen=True)
class Stage:
    """Where growth stands.

    Args:
        resolution: N.
        fade: weight of this resolution over the one before, in [0, 1]; 1 once it stands alone.
        segment: counts fades and stable parts, so that a change of it is a border between them.
        lr_factor: of the learning rates.
    """

    resolution: int
    fade: float
    segment: int
    lr_factor: float


class Growth:
    """The phases, one after the other.

    Args:
        phases: each of twice the resolution of the one before.

    Raises:
        InputError: no phases, resolutions that do not double, a first phase that fades, or negative lengths.
    """

    def __init__(self, phases: Sequence[GrowthPhase]) -> None:
        sizes = [phase.resolution for phase in phases]
        if not sizes or sizes != [sizes[0] << i for i in range(len(sizes))]:
            raise InputError(f"growth's resolutions must double from phase to phase, got {sizes}")
        if phases[0].fade_kimg:
            raise InputError(f"the first phase has nothing to fade from; set its fade_kimg {phases[0].fade_kimg} to 0")
        for phase in phases:
            if min(phase.fade_kimg, phase.stable_kimg) < 0 or phase.lr_factor <= 0:
                raise InputError(f"growth needs lengths of at least 0 and a positive lr_factor, got {phase}")
        self.phases = tuple(phases)

    @property
    def resolution(self) -> int:
        """That of the last phase."""
        return self.phases[-1].resolution

    def at(self, images: int) -> Stage:
        """Where growth stands after so many images. In a fade the weight rises linearly from 0."""
        start = 0
        for i, phase in enumerate(self.phases):
            fade, stable = round(1000 * phase.fade_kimg), round(1000 * phase.stable_kimg)
            if images < start + fade:
                return Stage(phase.resolution, (images - start) / fade, 2 * i, phase.lr_factor)
            if images < start + fade + stable or i == len(self.phases) - 1:
                break
            start += fade + stable
        return Stage(phase.resolution, 1.0, 2 * i + 1, phase.lr_factor)
