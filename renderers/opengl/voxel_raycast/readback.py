"""Pixels brought back from the sheets of :mod:`renderers.opengl.voxel_raycast.raycaster` into images."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.numba_jit import compiled

# Alpha of the first pass, in bytes; 0 where there is nothing.
CLEAR = 255
BESIDE = 128  # to be sampled: the surface ends so close by that the neighbours hardly see it
# Anything else is to be sampled, and its neighbours with it.


@compiled
@no_type_check
def read_back(
    shades,
    surface,
    rays,
    counts,
    apart,
    state,
    image,
    geometry,
    marked,
):
    """Copy pixels from the first pass's sheet into images, and list those to sample four times. How many.

    Those are the ones whose ray passed closely by a surface, and the clear ones beside an end of it that may cut them.

    Args:
        shades: ``(H, W, 4)`` bytes of the first pass: shade, alpha, and depth, 0 to 255 through the unit ball.
        surface: ``(H, W, 4)`` normal and depth; or of no height, without geometry.
        rays: ``(N, 4)``, see :func:`renderers.opengl.voxel_raycast.ray_culling_numba.cull_rays`.
        counts: ``(B,)``, how many of them each grid has.
        apart: a neighbour so much farther, in such steps, lies behind an edge.
        state: ``(S + 2, S + 2, 2)`` bytes, alpha and depth: work space whose border is CLEAR and near.
        image: ``(2, B, S, S)``, image and alpha: written.
        geometry: ``(4, B, S, S)``, normal and depth: written, with geometry.
        marked: ``(N, 4)`` int32: rays as in ``rays`` are written.
    """
    found, end = 0, 0
    for grid in range(len(counts)):
        begin, end = end, end + counts[grid]
        state[1:-1, 1:-1, 0] = 0
        for n in range(begin, end):
            row, column = _place(n, shades.shape[1])
            x, y = rays[n, 0] & 0xFFFF, rays[n, 0] >> 16
            alpha = shades[row, column, 1]
            state[y + 1, x + 1, 0], state[y + 1, x + 1, 1] = alpha, shades[row, column, 2]
            if alpha == CLEAR:
                image[0, grid, y, x] = shades[row, column, 0] * np.float32(1 / 255)
                image[1, grid, y, x] = 1.0
                if len(surface):
                    for channel in range(4):
                        geometry[channel, grid, y, x] = surface[row, column, channel]
        for n in range(begin, end):
            x, y = (rays[n, 0] & 0xFFFF) + 1, (rays[n, 0] >> 16) + 1
            own = state[y, x, 0]
            if own == 0:
                continue
            if own == CLEAR:
                ends = 0
                for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    beside = state[row, column, 0]
                    if beside == BESIDE:
                        ends += 1
                    elif beside != CLEAR or state[row, column, 1] > state[y, x, 1] + apart:
                        ends += 2
                if ends < 2:
                    continue
            for channel in range(4):
                marked[found, channel] = rays[n, channel]
            found += 1
    return found


@compiled
@no_type_check
def read_samples(
    marked,
    resolved,
    points,
    image,
    geometry,
):
    """Write resolved pixels, bytes ``(N, 2)`` and floats ``(N, 4)``, into images ``(2, B, S, S)``, ``(4, B, S, S)``.

    ``marked`` is their rays, see :func:`read_back`; without geometry there are no floats.
    """
    for n in range(len(marked)):
        x, y, grid = marked[n, 0] & 0xFFFF, marked[n, 0] >> 16, marked[n, 1]
        for channel in range(2):
            image[channel, grid, y, x] = resolved[n, channel] * np.float32(1 / 255)
        if len(points):
            for channel in range(3):
                geometry[channel, grid, y, x] = points[n, channel]
            geometry[3, grid, y, x] = points[n, 3] if resolved[n, 1] > 0 else np.float32(np.inf)


@compiled
@no_type_check
def _place(n, across):
    """Row and column in the sheet of ray n: blocks of 4x4 along bands."""
    block = n >> 4
    per_band = across >> 2
    return 4 * (block // per_band) + (n >> 2 & 3), 4 * (block % per_band) + (n & 3)
