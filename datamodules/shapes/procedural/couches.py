"""Procedural couches: a base, a back, arms, cushions with gaps, feet, and sometimes a chaise."""

from __future__ import annotations

import numpy as np

from datamodules.shapes.procedural.primitives import INF, Part, Sweep, block, box, strut


def couch(rng: np.random.Generator) -> list[Part]:
    """Return the parts of a random couch, its long side along x."""
    u = rng.uniform
    w = u(0.65, 1.3)
    d = u(0.38, 0.5)
    feet = 0.0 if rng.random() < 0.3 else u(0.04, 0.18)
    base = feet + u(0.1, 0.24)
    seat = base + u(0.06, 0.2)
    back = seat + u(0.22, 0.6)
    soft = float(rng.choice([INF, 8.0, 5.0], p=[0.35, 0.35, 0.3]))
    thick = u(0.07, 0.15)
    arm = 0.0 if rng.random() < 0.12 else u(0.05, 0.16)
    tilt = u(0, 0.25) if rng.random() < 0.6 else 0.0

    parts: list[Part] = [block((0, (feet + base) / 2, 0), (w, (base - feet) / 2, d), soft if feet else INF)]
    parts += _back(rng, w, d, base, seat, back, thick, tilt, soft)
    inner = w - 2 * arm
    if arm:
        parts += _arms(rng, w, d, feet, seat, back, arm, soft)
    room = (-d + 1.8 * thick, d * u(0.96, 1.05))
    n = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.35, 0.1]))
    parts += _cushions(rng, inner, room, base, seat, n)
    if rng.random() < 0.45:
        parts += _back_cushions(rng, inner, room[0], seat, back, tilt, n)
    if rng.random() < 0.2:  # an L shape: one seat extends to the front
        side = rng.choice([-1, 1])
        wide, out = inner * u(0.3, 0.5), u(0.35, 0.9)
        at = side * (w - wide)
        parts.append(box((at, (feet + base) / 2, d + out / 2), (wide, (base - feet) / 2, out / 2 + 0.05)))
        parts.append(
            block((at, (base + seat) / 2 - 0.02, d + out / 2), (wide, (seat - base) / 2 + 0.02, out / 2 + 0.05), 8)
        )
        if feet:
            parts += [_foot((at + s * wide * 0.8, d + out * 0.88), base, 0.035, INF) for s in (-1, 1)]
        if rng.random() < 0.4:  # a corner sofa: the back extends as well
            high = (back + feet) / 2
            parts.append(box((side * (w - thick), high, out / 2), (thick, high - feet, d + out / 2)))
    if feet:
        parts += _feet(rng, w, d, base)
    return parts


def _back(
    rng: np.random.Generator,
    w: float,
    d: float,
    base: float,
    seat: float,
    back: float,
    thick: float,
    tilt: float,
    soft: float,
) -> list[Part]:
    """Return a leaning panel: straight, with a soft upper edge, or arched along x."""
    lean = tilt * (back - base)
    foot, top = (0.0, base - 0.08, -d + thick), (0.0, back, -d + thick - lean)
    kind = rng.choice(["flat", "soft", "arched", "camel"], p=[0.4, 0.3, 0.18, 0.12])
    half = (w, thick)
    if kind == "flat":
        return [Sweep(foot, top, half, (w, thick * rng.uniform(0.6, 1)), power=soft)]
    if kind == "soft":
        return [Sweep(foot, top, half, half, power=soft, round=6, round_both=False)]
    if kind == "arched":
        return [Sweep(foot, top, half, half, round=rng.uniform(2.5, 6), round_both=False, round_both_axes=False)]
    middle = (0.0, seat + 0.6 * (back - seat), -d + thick - 0.6 * lean)
    hump = Sweep(foot, top, (w * 0.75, thick), (w * 0.75, thick), round=2, round_both=False, round_both_axes=False)
    return [Sweep(foot, middle, half, half), hump]


def _arms(
    rng: np.random.Generator, w: float, d: float, feet: float, seat: float, back: float, arm: float, soft: float
) -> list[Part]:
    """Return arms of one kind on both sides, or rarely on one side."""
    high = seat + rng.uniform(0.1, 0.95) * min(back - seat, 0.35)
    flare = rng.uniform(0, 0.3) * arm if rng.random() < 0.3 else 0.0
    kind = rng.choice(["block", "rolled", "sloping"], p=[0.55, 0.25, 0.2])
    sides = (-1, 1) if rng.random() < 0.93 else (int(rng.choice([-1, 1])),)
    parts: list[Part] = []
    for s in sides:
        x = s * (w - arm)
        if kind == "sloping":
            low = feet + rng.uniform(0.6, 0.95) * (high - feet)
            parts.append(
                strut(
                    (x, (feet + high) / 2, -d),
                    (x, (feet + low) / 2, d),
                    (arm, (high - feet) / 2),
                    (arm, (low - feet) / 2),
                )
            )
            continue
        parts.append(strut((x, feet, 0), (x + s * flare, high, 0), (arm, d), power=soft))
        if kind == "rolled":
            parts.append(block((x + s * (flare + 0.3 * arm), high, 0), (arm * 1.25, arm * 1.1, d), 2, axis=2))
    return parts


def _cushions(
    rng: np.random.Generator, inner: float, room: tuple[float, float], base: float, seat: float, n: int
) -> list[Part]:
    """Return ``n`` seat cushions side by side with gaps between them."""
    gap, power = rng.uniform(0.01, 0.05), float(rng.choice([INF, 8.0, 4.0]))
    rounding = INF if power == INF else rng.uniform(3, 8)
    half = inner / n
    z, deep = (room[0] + room[1]) / 2, (room[1] - room[0]) / 2
    sink = 0.35 * (seat - base)
    high = (seat - base + sink) / 2
    return [
        block((-inner + half * (2 * i + 1), seat - high, z), (half - gap, high, deep), power, rounding)
        for i in range(n)
    ]


def _back_cushions(
    rng: np.random.Generator, inner: float, z: float, seat: float, back: float, tilt: float, n: int
) -> list[Part]:
    """Return cushions that lean on the back."""
    half, gap, thick = inner / n, rng.uniform(0.01, 0.05), rng.uniform(0.05, 0.1)
    top = seat + rng.uniform(0.7, 1.05) * (back - seat)
    low = seat - 0.05
    parts: list[Part] = []
    for i in range(n):
        x = -inner + half * (2 * i + 1)
        side = (half - gap, thick)
        lean = tilt * (top - low) + 0.03
        parts.append(Sweep((x, low, z + 0.02), (x, top, z + 0.02 - lean), side, side, power=6, round=rng.uniform(3, 8)))
    return parts


def _foot(at: tuple[float, float], base: float, half: float, power: float) -> Part:
    return strut((at[0], 0, at[1]), (at[0], base, at[1]), half * 0.75, half, power)


def _feet(rng: np.random.Generator, w: float, d: float, base: float) -> list[Part]:
    """Return four or six feet, or two runners."""
    half, power = rng.uniform(0.02, 0.06), float(rng.choice([INF, 2.0]))
    x, z = w * rng.uniform(0.82, 0.93), d * rng.uniform(0.7, 0.88)
    if rng.random() < 0.15:
        return [box((s * x, base / 2, 0), (half, base / 2, z)) for s in (-1, 1)]
    columns = (-x, 0.0, x) if rng.random() < 0.2 else (-x, x)
    return [_foot((c, s * z), base, half, power) for c in columns for s in (-1, 1)]
