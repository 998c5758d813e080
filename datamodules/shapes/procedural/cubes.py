"""Random boxes, for pre-training a proxy on something that looks like nothing."""

from __future__ import annotations

import numpy as np

from datamodules.shapes.procedural.primitives import OrientedBox, Part, box

MAX_BOXES = 12


def cubes(rng: np.random.Generator) -> list[Part]:
    """One to twelve boxes, each with its middle inside an earlier one, some of them turned."""
    parts: list[Part] = []
    places: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    turned = rng.choice([0.0, 0.4, 1.0])
    for _ in range(int(rng.integers(1, MAX_BOXES + 1))):
        half = rng.uniform(0.06, 0.5, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0.1, 0.45))
        rotation = _rotation(rng) if rng.random() < turned else np.eye(3)
        center = np.zeros(3)
        if places:
            middle, reach, axes = places[int(rng.integers(len(places)))]
            center = middle + (rng.uniform(-0.95, 0.95, 3) * reach) @ axes
        places.append((center, half, rotation))
        if (rotation == np.eye(3)).all():
            parts.append(box(tuple(center), tuple(half)))
        else:
            parts.append(OrientedBox(tuple(center), tuple(half), rotation))
    return parts


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation drawn uniformly, from a unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
