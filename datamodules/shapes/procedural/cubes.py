"""Random boxes, for pre-training a proxy on shapes that resemble no object."""

from __future__ import annotations

import numpy as np

from datamodules.shapes.procedural.primitives import OrientedBox, Part, box, vector

MAX_BOXES = 12


def cubes(rng: np.random.Generator) -> list[Part]:
    """Return 1 to 12 boxes, each centred inside an earlier one, some of them rotated."""
    parts: list[Part] = []
    placed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    rotated = rng.choice([0.0, 0.4, 1.0])
    for _ in range(int(rng.integers(1, MAX_BOXES + 1))):
        half = rng.uniform(0.06, 0.5, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0.1, 0.45))
        rotation = _rotation(rng) if rng.random() < rotated else np.eye(3)
        center = np.zeros(3)
        if placed:
            middle, reach, axes = placed[int(rng.integers(len(placed)))]
            center = middle + (rng.uniform(-0.95, 0.95, 3) * reach) @ axes
        placed.append((center, half, rotation))
        if (rotation == np.eye(3)).all():
            parts.append(box(vector(center), vector(half)))
        else:
            parts.append(OrientedBox(vector(center), vector(half), rotation))
    return parts


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly distributed rotation from a random unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
