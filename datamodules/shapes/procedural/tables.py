"""Procedural tables: a top on legs, a pedestal, trestles or panels, sometimes with shelves and drawers."""

from __future__ import annotations

import numpy as np

from datamodules.shapes.procedural.primitives import INF, Part, block, box, choose, strut


def table(rng: np.random.Generator) -> list[Part]:
    """Return the parts of a random table, its long side along x."""
    u = rng.uniform
    height = u(0.3, 0.55) if rng.random() < 0.3 else u(0.6, 1.0)
    outline = float(rng.choice([INF, 2.0, 5.0], p=[0.6, 0.25, 0.15]))
    w = u(0.45, 1.0)
    d = w if rng.random() < 0.3 else w * u(0.4, 0.95)
    thick = u(0.02, 0.05) if rng.random() < 0.8 else u(0.05, 0.1)
    top = block((0, height - thick, 0), (w, thick, d), outline)
    inset = 0.68 if outline == 2.0 else u(0.8, 0.98)
    x, z = inset * w, inset * d
    bar = u(0.025, 0.075)
    support = choose(rng, _SUPPORTS)
    return [top, *support(rng, x - bar, z - bar, height, thick, bar)]


def _four(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    u = rng.uniform
    power = float(rng.choice([INF, 2.0]))
    splay = u(0.05, 0.2) * h if rng.random() < 0.25 else 0.0
    foot = bar * (u(0.5, 0.8) if rng.random() < 0.4 else 1.0)
    corners = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    legs: list[Part] = [
        strut((i * x, h - t, j * z), (i * (x + splay), 0, j * (z + splay)), bar * 1.1, foot, power) for i, j in corners
    ]
    extra = rng.random()
    if extra < 0.3:  # an apron, which looks like drawers if it is deep
        deep = u(0.04, 0.16) * h
        legs.append(box((0, h - 2 * t - deep + 0.02, 0), (x, deep + 0.02, z)))
    elif extra < 0.5:  # a shelf
        level = u(0.15, 0.45) * h
        out = 1 + splay / x * (1 - level / (h - t))
        legs.append(box((0, level, 0), (x * out, u(0.015, 0.03), z * out)))
    elif extra < 0.65:  # drawers on one side or both
        deep, wide = u(0.15, 0.4) * h, u(0.2, 0.4) * x
        sides = (-1, 1) if rng.random() < 0.5 else (1,)
        legs += [box((s * (x - wide), h - t - deep, 0), (wide, deep, z)) for s in sides]
    elif extra < 0.8:  # stretchers
        level = u(0.1, 0.4) * h
        out = splay * (1 - level / (h - t))
        thin = bar * 0.7
        legs += [strut((s * (x + out), level, -z - out), (s * (x + out), level, z + out), thin) for s in (-1, 1)]
        legs.append(strut((-x - out, level, 0), (x + out, level, 0), thin))
    return legs


def _pedestal(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    u = rng.uniform
    column = u(0.04, 0.14)
    parts: list[Part] = [strut((0, 0.02, 0), (0, h - t, 0), column * u(0.8, 1.8), column, 2.0)]
    reach = u(0.55, 0.95)
    if rng.random() < 0.5:
        parts.append(block((0, 0.03, 0), (reach * x, 0.03, reach * z), float(rng.choice([2.0, INF]))))
    else:
        arms, rise, start = int(rng.integers(3, 6)), u(0.02, 0.3) * h, u(0, 2 * np.pi)
        for k in range(arms):
            angle = start + 2 * np.pi * k / arms
            tip = (reach * x * np.cos(angle), bar, reach * z * np.sin(angle))
            parts.append(strut((0, bar + rise, 0), tip, bar, bar * 0.8))
    return parts


def _trestle(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    at, lean = rng.uniform(0.65, 1.0) * x, rng.uniform(0.2, 0.8)
    rung = z * (1 - lean * 0.3 * h / (h - t))  # z of the legs at the rung's height
    parts: list[Part] = []
    for s in (-1, 1):
        parts += [strut((s * at, h - t, j * z * (1 - lean)), (s * at, 0, j * z), bar) for j in (-1, 1)]
        parts.append(strut((s * at, h * 0.3, -rung), (s * at, h * 0.3, rung), bar * 0.7))
    if rng.random() < 0.6:
        parts.append(strut((-at, h * 0.3, 0), (at, h * 0.3, 0), bar * 0.8))
    return parts


def _panels(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    parts: list[Part] = [box((s * x, (h - t) / 2, 0), (bar * 0.8, (h - t) / 2, z)) for s in (-1, 1)]
    if rng.random() < 0.5:  # a modesty panel behind
        deep = rng.uniform(0.3, 1.0) * (h - t) / 2
        parts.append(box((0, h - t - deep, -z * rng.uniform(0.5, 1.0)), (x, deep, bar * 0.6)))
    if rng.random() < 0.4:
        wide = rng.uniform(0.2, 0.4) * x
        parts.append(box((x - wide, (h - t) / 2 + 0.03, 0), (wide, (h - t) / 2 - 0.03, z)))
    return parts


def _two_columns(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    at, column = rng.uniform(0.5, 0.85) * x, rng.uniform(1.0, 2.0) * bar
    parts: list[Part] = []
    for s in (-1, 1):
        parts.append(strut((s * at, 0.02, 0), (s * at, h - t, 0), column, power=float(rng.choice([2.0, INF]))))
        parts.append(box((s * at, bar, 0), (column, bar, z * rng.uniform(0.7, 1.0))))
    if rng.random() < 0.6:
        parts.append(strut((-at, h * 0.4, 0), (at, h * 0.4, 0), bar * 0.8))
    return parts


def _crossed(rng: np.random.Generator, x: float, z: float, h: float, t: float, bar: float) -> list[Part]:
    parts: list[Part] = []
    for s in (-1, 1):
        parts += [strut((s * x, 0, -j * z), (s * x, h - t, j * z), bar) for j in (-1, 1)]
    parts.append(strut((-x, (h - t) / 2, 0), (x, (h - t) / 2, 0), bar * 0.8))
    return parts


_SUPPORTS = {  # with their probabilities
    _four: 0.54,
    _pedestal: 0.16,
    _trestle: 0.1,
    _panels: 0.08,
    _two_columns: 0.07,
    _crossed: 0.05,
}
