"""Procedural bathtubs: a vessel with a hollow, a rim, and feet, a plinth or an apron below."""

from __future__ import annotations

import numpy as np

from datamodules.shapes.procedural.primitives import INF, Hollow, Part, Sweep, block, box, strut


def bathtub(rng: np.random.Generator) -> list[Part]:
    """Return the parts of a random bathtub, its long side along x."""
    u = rng.uniform
    w, d, deep = u(0.7, 1.0), u(0.32, 0.52), u(0.34, 0.62)
    wall, floor = u(0.03, 0.1), u(0.05, 0.14)
    kind = str(rng.choice(["free", "clawfoot", "built in", "pedestal", "corner"], p=[0.3, 0.25, 0.27, 0.1, 0.08]))
    power = float(rng.choice([2.0, 2.5, 4.0, 6.0, 10.0]))
    if kind == "built in":
        return _built_in(rng, w, d, deep, wall, floor, power)
    if kind == "corner":
        return _corner(rng, max(d, 0.45) * 1.2, deep, floor)
    lift = u(0.08, 0.2) if kind in ("clawfoot", "pedestal") else 0.0
    narrow = (u(0.6, 0.95), u(0.6, 0.95))
    shift = u(-0.08, 0.08) if rng.random() < 0.4 else 0.0
    slipper = rng.random() < 0.25  # one end sweeps up
    high = lift + deep * (u(1.15, 1.45) if slipper else 1.0)
    outer = Sweep((shift, lift, 0), (0, high, 0), (w * narrow[0], d * narrow[1]), (w, d), power=power)
    inner_power = min(power, float(rng.choice([2.0, 3.0, 5.0, INF])))  # a larger power would pierce the corners
    vessel = _vessel(outer, wall, floor, inner_power)
    if slipper:
        slope = (high - lift - deep) / w * rng.choice([-1, 1])
        vessel = Hollow(outer, vessel.inner, keep=((-slope, 1.0, 0.0), lift + deep))
    parts: list[Part] = [vessel]
    if not slipper and rng.random() < 0.6:
        parts.append(_rim(w, d, high, u(0.02, 0.05), u(0.02, 0.06), wall, power))
    if kind == "clawfoot":
        foot = u(0.03, 0.06)
        x, z = 0.55 * w * narrow[0], 0.55 * d * narrow[1]
        spread = u(1.0, 1.25)
        for i in (-1, 1):
            for j in (-1, 1):
                top, end = (i * x, lift + floor * 0.6, j * z), (i * x * spread, 0, j * z * spread)
                parts.append(strut(top, end, foot * 1.3, foot, 2.0))
    elif kind == "pedestal":
        share = u(0.5, 0.8)
        parts.append(
            block((shift, (lift + floor) / 2, 0), (w * share * narrow[0], (lift + floor) / 2, d * share), power)
        )
    if not slipper and rng.random() < 0.35:
        parts += _tap(rng, w, high, wall)
    return parts


def _vessel(outer: Sweep, wall: float, floor: float, power: float) -> Hollow:
    """Return ``outer`` with a hollow that is open at the top."""
    y0, y1 = outer.start[1], outer.end[1]
    t = floor / (y1 - y0)
    (a0, a1), (b0, b1) = outer.start_half, outer.end_half
    bottom, top = (a0 + t * (b0 - a0) - wall, a1 + t * (b1 - a1) - wall), (b0 - wall, b1 - wall)
    inner = Sweep((outer.start[0], y0 + floor, 0), (outer.end[0], y1 + 0.05, 0), bottom, top, power=power)
    return Hollow(outer, inner)


def _rim(w: float, d: float, top: float, out: float, high: float, wall: float, power: float) -> Hollow:
    """Return a band around the upper edge."""
    outer = block((0, top - high / 2, 0), (w + out, high / 2, d + out), power)
    return Hollow(outer, block((0, top - high / 2, 0), (w - wall, high, d - wall), power))


def _built_in(
    rng: np.random.Generator, w: float, d: float, deep: float, wall: float, floor: float, power: float
) -> list[Part]:
    """Return a block with a hollow of another outline and an apron down to the floor."""
    u = rng.uniform
    outer = block((0, deep / 2, 0), (w, deep / 2, d), float(rng.choice([INF, 12.0])))
    ends = (w - wall * u(1, 3), d - wall)
    taper = (u(0.75, 0.95), u(0.75, 0.95))
    inner = Sweep(
        (0, floor, 0), (0, deep + 0.05, 0), (ends[0] * taper[0], ends[1] * taper[1]), ends, power=max(power, 2.5)
    )
    parts: list[Part] = [Hollow(outer, inner)]
    if rng.random() < 0.3:  # a ledge along the wall
        parts.append(box((0, deep / 2, -d - 0.08), (w, deep / 2, 0.1)))
    if rng.random() < 0.3:
        parts += _tap(rng, w, deep, wall)
    if rng.random() < 0.2:  # a step in front
        parts.append(box((0, deep * 0.18, d + 0.1), (w * u(0.4, 1.0), deep * 0.18, 0.14)))
    return parts


def _corner(rng: np.random.Generator, side: float, deep: float, floor: float) -> list[Part]:
    """Return an almost square tub with a round hollow."""
    u = rng.uniform
    outer = block((0, deep / 2, 0), (side * u(1.0, 1.3), deep / 2, side), float(rng.choice([2.0, 3.0, INF])))
    share = u(0.72, 0.88) if outer.power != 2.0 else u(0.8, 0.9)
    half = (outer.start_half[0] * share, outer.start_half[1] * share)
    inner = Sweep((0, floor, 0), (0, deep + 0.05, 0), (half[0] * 0.85, half[1] * 0.85), half, power=2.0)
    return [Hollow(outer, inner)]


def _tap(rng: np.random.Generator, w: float, top: float, wall: float) -> list[Part]:
    """Return a spout at one end, above the hollow."""
    high, thin = rng.uniform(0.1, 0.22), 0.018
    x = w - 0.5 * wall
    return [
        strut((x, top - 0.06, 0), (x, top + high, 0), thin),
        strut((x - rng.uniform(0.12, 0.2), top + high, 0), (x, top + high, 0), thin),
    ]
