"""Procedural chairs: combinations of kinds of legs, seats, backs and optional arms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.shapes.procedural.primitives import INF, Hollow, Part, Sweep, block, box, choose, ring, strut

ARMS = {"none": 0.56, "post": 0.22, "solid": 0.14, "floating": 0.08}  # with their probabilities


@dataclass(frozen=True)
class _Chair:
    """Proportions shared by the parts. The floor is at y = 0, the seat's centre at x = z = 0, its front at +z."""

    w: float  # half the seat's width
    d: float  # half the seat's depth
    under: float  # y of the seat's underside
    top: float  # y of the seat's upper side
    height: float  # from the seat to the top of the back
    tilt: float  # backward lean of the back per unit of height
    bar: float  # half the thickness of a leg, slat or arm
    power: float  # outline of the seat and of the legs

    def back(self, y: float, z: float = 0.0) -> float:
        """Return z of the back's centre at height y, shifted by z."""
        return -self.d + self.bar - self.tilt * max(y - self.top, 0.0) + z


def chair(rng: np.random.Generator) -> list[Part]:
    """Return the parts of a random chair."""
    u = rng.uniform
    legs = choose(rng, _LEGS)
    back = choose(rng, _BACKS)
    low = legs is _solid or rng.random() < 0.12  # a lounge chair
    seat_height = u(0.28, 0.5) if low else u(0.6, 1.05)
    if back is _no_back:
        seat_height *= u(1.0, 1.6)
    thick = u(0.12, 0.3) if low else u(0.05, 0.16)
    body = _Chair(
        w=u(0.4, 0.62) * (1.15 if low else 1),
        d=u(0.38, 0.58),
        under=seat_height - thick,
        top=seat_height,
        height=u(0.45, 1.3) if rng.random() < 0.9 else u(1.3, 1.6),
        tilt=rng.choice([0.0, u(0.0, 0.15), u(0.15, 0.4)], p=[0.25, 0.5, 0.25]),
        bar=u(0.025, 0.075),
        power=float(rng.choice([INF, 2.0], p=[0.6, 0.4])),
    )
    round_seat = back in (_barrel, _no_back, _loop) and rng.random() < 0.5
    parts: list[Part] = [_seat(rng, body, 2.0 if round_seat else float(rng.choice([INF, 5.0], p=[0.6, 0.4])))]
    inset = 0.75 if round_seat else u(0.85, 1.0)
    parts += legs(rng, body, inset)
    parts += back(rng, body)
    arms = choose(rng, ARMS)
    if back not in (_no_back, _barrel) and arms != "none":
        parts += _arms(rng, body, arms, attach=back is not _loop)
    return parts


def _seat(rng: np.random.Generator, c: _Chair, power: float) -> Sweep:
    middle, half = (c.under + c.top) / 2, (c.top - c.under) / 2
    if rng.random() < 0.25:  # wider at the front
        front = rng.uniform(1.0, 1.2)
        return Sweep((0, middle, -c.d), (0, middle, c.d), (c.w, half), (c.w * front, half), axis=2)
    cushion = rng.random() < 0.25
    return block((0, middle, 0), (c.w, half, c.d), power, 5.0 if cushion else INF)


def _four(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return four legs, straight, tapered or splayed, with or without stretchers."""
    u = rng.uniform
    x, z = inset * c.w - c.bar, inset * c.d - c.bar
    splay_x, splay_z = (u(0, 0.3), u(0, 0.3)) if rng.random() < 0.4 else (0.0, 0.0)
    splay_x, splay_z = splay_x * c.under, splay_z * c.under
    foot = c.bar * (u(0.5, 0.8) if rng.random() < 0.4 else 1.0)
    front_power = INF if rng.random() < 0.7 else c.power
    parts: list[Part] = []
    for sx in (-1, 1):
        for sz in (-1, 1):
            end = (sx * (x + splay_x), 0.0, sz * (z + splay_z))
            parts.append(strut((sx * x, c.top, sz * z), end, c.bar * 1.1, foot, c.power if sz < 0 else front_power))
    if rng.random() < 0.45:
        level = u(0.15, 0.65)
        out = 1 - level * c.under / c.top
        sx_, sz_, y = x + out * splay_x, z + out * splay_z, level * c.under
        thin = c.bar * u(0.5, 0.8)
        kind = rng.choice(["box", "sides", "H", "X"])
        if kind in ("box", "sides", "H"):
            parts += [strut((s * sx_, y, -sz_), (s * sx_, y, sz_), thin) for s in (-1, 1)]
        if kind == "box":
            parts += [strut((-sx_, y, s * sz_), (sx_, y, s * sz_), thin) for s in (-1, 1)]
        if kind == "H":
            parts.append(strut((-sx_, y, 0), (sx_, y, 0), thin))
        if kind == "X":
            parts += [strut((-sx_, y, -s * sz_), (sx_, y, s * sz_), thin) for s in (-1, 1)]
    if rng.random() < 0.35:  # an apron under the seat
        deep = u(0.06, 0.14)
        parts.append(box((0, c.under - deep / 2 + 0.02, 0), (x, deep / 2 + 0.02, z)))
    return parts


def _pedestal(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return a column on a star-shaped foot or a disc."""
    u = rng.uniform
    column = u(0.04, 0.09)
    parts: list[Part] = [strut((0, 0.02, 0), (0, c.top, 0), column * u(1, 1.5), column, 2.0)]
    reach = u(0.75, 1.0) * c.w
    if rng.random() < 0.65:
        arms = int(rng.integers(4, 7))
        rise, start = u(0.02, 0.2), u(0, 2 * np.pi)
        for k in range(arms):
            angle = start + 2 * np.pi * k / arms
            tip = (reach * np.cos(angle), c.bar, reach * np.sin(angle))
            parts.append(strut((0, c.bar + rise, 0), tip, c.bar * 1.1, c.bar * 0.8))
            parts.append(block((tip[0], c.bar, tip[2]), (c.bar * 1.3,) * 3, 2, 2))
    else:
        parts.append(block((0, 0.04, 0), (reach, 0.04, reach), 2))
        parts.append(strut((0, 0.04, 0), (0, u(0.1, 0.3), 0), reach * u(0.3, 0.7), column, 2.0))
    return parts


def _sled(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return legs on a floor runner along each side."""
    x, z, thin = inset * c.w - c.bar, inset * c.d - c.bar, c.bar * rng.uniform(0.7, 1)
    slant = rng.uniform(0, 0.2) * c.under
    parts: list[Part] = []
    for s in (-1, 1):
        parts.append(strut((s * x, thin, -z - slant), (s * x, thin, z + slant), thin))
        parts += [strut((s * x, c.top, t * z), (s * x, 0, t * (z + slant)), thin, power=c.power) for t in (-1, 1)]
    if rng.random() < 0.4:
        parts.append(strut((-x, thin, -z), (x, thin, -z), thin))
    return parts


def _solid(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return a closed body down to the floor or to short feet."""
    gap = rng.uniform(0.05, 0.15) if rng.random() < 0.6 else 0.0
    inset = max(inset, 0.9)
    shrink = rng.uniform(0.75, 1.0)
    w, d = c.w * inset, c.d * inset
    parts: list[Part] = [
        strut((0, gap, 0), (0, c.top, 0), (w * shrink, d * shrink), (w, d), float(rng.choice([INF, 6])))
    ]
    if gap:
        x, z = 0.75 * w * shrink, 0.75 * d * shrink
        parts += [strut((i * x, 0, j * z), (i * x, c.under, j * z), 0.05, 0.07) for i in (-1, 1) for j in (-1, 1)]
    return parts


def _cantilever(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return front posts on runners, without back legs."""
    x, z, thin = inset * c.w - c.bar, inset * c.d - c.bar, c.bar * 0.9
    parts: list[Part] = [strut((-x, thin, -z), (x, thin, -z), thin)]
    for s in (-1, 1):
        parts.append(strut((s * x, 0, z), (s * x, c.top, z), thin, power=c.power))
        parts.append(strut((s * x, thin, -z), (s * x, thin, z), thin))
    return parts


def _crossed(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return legs that cross as on a folding chair, in the side view or in the front view."""
    x, z = inset * c.w - c.bar, inset * c.d - c.bar
    parts: list[Part] = []
    if rng.random() < 0.5:
        for s in (-1, 1):
            parts += [strut((s * x, 0, -t * z), (s * x, c.top, t * z), c.bar) for t in (-1, 1)]
        parts.append(strut((-x, 0.12, z * 0.8), (x, 0.12, z * 0.8), c.bar))
    else:
        for s in (-1, 1):
            parts += [strut((-t * x, 0, s * z), (t * x, c.top, s * z), c.bar) for t in (-1, 1)]
    return parts


def _panels(rng: np.random.Generator, c: _Chair, inset: float) -> list[Part]:
    """Return a panel on each side."""
    thin = max(c.bar, 0.04)
    parts: list[Part] = [box((s * (c.w - thin), c.top / 2, 0), (thin, c.top / 2, c.d)) for s in (-1, 1)]
    if rng.random() < 0.5:
        y = rng.uniform(0.2, 0.6) * c.under
        parts.append(box((0, y, 0), (c.w, c.bar, c.bar)))
    return parts


_LEGS = {  # with their probabilities
    _four: 0.56,
    _pedestal: 0.13,
    _sled: 0.08,
    _solid: 0.07,
    _cantilever: 0.05,
    _crossed: 0.05,
    _panels: 0.06,
}


def _panel(c: _Chair, bottom: float, top: float, half: float, thick: float, flare: float = 1.0) -> Sweep:
    """Return a leaning panel across the back between two heights above the seat."""
    a, b = c.top + bottom, c.top + top
    return Sweep((0, a, c.back(a)), (0, b, c.back(b)), (half, thick), (half * flare, thick))


def _posts(c: _Chair, x: float, top: float, thin: float) -> list[Part]:
    """Return the two uprights of a back, which start inside the seat."""
    return [
        strut((s * x, c.under, c.back(c.top)), (s * x, c.top + top, c.back(c.top + top)), thin, power=c.power)
        for s in (-1, 1)
    ]


def _solid_back(rng: np.random.Generator, c: _Chair) -> list[Part]:
    thick = rng.uniform(0.03, 0.06) if rng.random() < 0.6 else rng.uniform(0.06, 0.15)
    half, flare = c.w * rng.uniform(0.85, 1.0), rng.uniform(0.8, 1.15)
    if rng.random() < 0.3:  # a panel above the seat on posts
        gap = rng.uniform(0.15, 0.5) * c.height
        x = half * rng.uniform(0.3, 0.8)
        return [_panel(c, gap, c.height, half, thick, flare), *_posts(c, x, gap + 0.3 * (c.height - gap), c.bar)]
    back = _panel(c, -(c.top - c.under), c.height, half, thick, flare)
    wings: list[Part] = []
    if rng.random() < 0.15:  # a wing chair
        for s in (-1, 1):
            x, y0, y1 = s * half, c.top + 0.35 * c.height, c.top + c.height
            wings.append(strut((x, y0, c.back(y0, 0.1)), (x, y1, c.back(y1, 0.1)), (0.04, 0.14), (0.04, 0.1)))
    return [back, *wings]


def _vertical_slats(rng: np.random.Generator, c: _Chair) -> list[Part]:
    n = int(rng.integers(2, 7))
    x = c.w * rng.uniform(0.85, 1.0) - c.bar
    rail = rng.uniform(0.04, 0.12)
    thin = (c.bar * rng.uniform(0.5, 0.9), c.bar * 0.6)
    top = c.height - rail
    parts = [*_posts(c, x, c.height, c.bar), _panel(c, c.height - 2 * rail, c.height, x, c.bar)]
    if rng.random() < 0.4:
        parts.append(_panel(c, 0.1 * c.height, 0.1 * c.height + rail, x, c.bar))
    for i in range(1, n + 1):
        at = -x + 2 * x * i / (n + 1)
        parts.append(strut((at, c.under, c.back(c.top)), (at, c.top + top, c.back(c.top + top)), thin))
    return parts


def _horizontal_slats(rng: np.random.Generator, c: _Chair) -> list[Part]:
    n = int(rng.integers(1, 6))
    x = c.w * rng.uniform(0.85, 1.0) - c.bar
    share = rng.uniform(0.3, 0.75)
    start = rng.uniform(0.05, 0.3) * c.height
    step = (c.height - start) / n
    parts = _posts(c, x, c.height, c.bar)
    for i in range(n):
        bottom = start + i * step + (1 - share) * step
        parts.append(_panel(c, bottom, start + (i + 1) * step, x, c.bar * rng.uniform(0.6, 1)))
    return parts


def _frame(rng: np.random.Generator, c: _Chair) -> list[Part]:
    x, rail = c.w * rng.uniform(0.85, 1.0) - c.bar, rng.uniform(0.06, 0.16)
    low = rng.uniform(0.0, 0.25) * c.height
    parts = [*_posts(c, x, c.height, c.bar * rng.uniform(1, 1.8)), _panel(c, c.height - rail, c.height, x, c.bar)]
    parts.append(_panel(c, low, low + rail, x, c.bar))
    if rng.random() < 0.5:  # a splat in the middle
        parts.append(_panel(c, -0.02, c.height, x * rng.uniform(0.15, 0.5), c.bar * 0.6))
    return parts


def _rounded(rng: np.random.Generator, c: _Chair) -> list[Part]:
    """Return a panel with an arched top, sometimes above a gap on posts."""
    thick, half = rng.uniform(0.03, 0.09), c.w * rng.uniform(0.8, 1.05)
    gap = rng.uniform(0.1, 0.4) * c.height if rng.random() < 0.4 else c.under - c.top
    a, b = c.top + gap, c.top + c.height
    panel = Sweep(
        (0, a, c.back(a)),
        (0, b, c.back(b)),
        (half, thick),
        (half, thick),
        round=rng.uniform(2, 5),
        round_both=gap > 0,
        round_both_axes=False,
    )
    return [panel] if gap < 0 else [panel, *_posts(c, half * 0.5, gap + 0.5 * (c.height - gap), c.bar)]


def _barrel(rng: np.random.Generator, c: _Chair) -> list[Part]:
    """Return a wall around the seat's back and sides."""
    height = min(c.height, rng.uniform(0.4, 0.9))
    wall, power = rng.uniform(0.05, 0.14), float(rng.choice([2.0, 3.0, 6.0]))
    half = (c.w + 0.5 * wall, (height + c.top - c.under) / 2, c.d + 0.5 * wall)
    band = ring((0, c.under + half[1], 0), half, wall, power=power)
    return [Hollow(band.outer, band.inner, keep=((0, 0, 1), rng.uniform(-0.2, 0.6) * c.d))]


def _loop(rng: np.random.Generator, c: _Chair) -> list[Part]:
    """Return a hoop, its lower part inside the seat, with a splat or spindles."""
    half = (c.w * rng.uniform(0.8, 1), (c.height + 0.12) / 2, c.bar)
    center = (0.0, c.top - 0.12 + half[1], c.back(c.top))
    parts: list[Part] = [ring(center, half, 2.2 * c.bar, axis=2, power=float(rng.choice([2.0, 2.6, 4.0])))]
    n = int(rng.integers(1, 6))
    for i in range(1, n + 1):
        x = half[0] * (2 * i / (n + 1) - 1)
        reach = center[1] + half[1] * np.sqrt(1 - (x / half[0]) ** 2) - c.bar
        thin = (half[0] * 0.25 if n == 1 else c.bar * 0.6, c.bar * 0.6)
        parts.append(strut((x, c.under, center[2]), (x, reach, center[2]), thin))
    return parts


def _no_back(rng: np.random.Generator, c: _Chair) -> list[Part]:
    return []


_BACKS = {  # with their probabilities
    _solid_back: 0.28,
    _vertical_slats: 0.15,
    _horizontal_slats: 0.16,
    _frame: 0.09,
    _rounded: 0.13,
    _barrel: 0.08,
    _loop: 0.07,
    _no_back: 0.04,
}


def _arms(rng: np.random.Generator, c: _Chair, kind: str, attach: bool) -> list[Part]:
    """Return armrests on both sides: on posts, closed down to the seat, or attached only to the back."""
    rise = rng.uniform(0.22, 0.45)
    y = c.top + min(rise, 0.75 * c.height)
    thin, wide = c.bar * rng.uniform(0.7, 1.2), c.bar * rng.uniform(0.9, 1.8)
    front = c.d * rng.uniform(0.6, 1.0)
    back = c.back(y)
    x = c.w * rng.uniform(0.95, 1.05) - (wide if kind != "solid" else 0.0)
    parts: list[Part] = []
    for s in (-1, 1):
        if kind == "solid":
            w, bottom = max(wide, 0.06), c.under - rng.uniform(0, 0.5) * c.under
            drop = rng.uniform(0.6, 1.0)
            middle, half = ((y + bottom) / 2, (y - bottom) / 2)
            low = middle - (1 - drop) * half
            parts.append(strut((s * x, middle, back), (s * x, low, c.d), (w, half), (w, half * drop)))
            continue
        drop = rng.uniform(0, 0.1) if kind == "floating" else rng.uniform(-0.02, 0.06)
        parts.append(strut((s * x, y, back), (s * x, y - drop, front), (wide, thin)))
        # Connect the armrest to the uprights of the back.
        parts.append(strut((s * x * 0.6, y, back), (s * x, y, back), thin))
        if kind == "post" or not attach:
            foot = front * rng.uniform(0.7, 1.0)
            parts.append(
                strut((s * x * 0.95, c.under, foot), (s * x, y - drop * 0.5, foot * 0.98), thin, power=c.power)
            )
    return parts
