"""Copies the first pass of :mod:`renderers.opengl.voxel_raycast.raycaster` from its atlas to images."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.numba_jit import compiled

# Alpha of the first pass, in bytes; 0 is background. Any other value marks the pixel and its neighbours.
UNAMBIGUOUS = 255
CLOSE_EDGE = 128  # the pixel is marked; the edge is so close to its centre that one such neighbour is not enough


@compiled
@no_type_check
def read_back(
    shades,
    surface,
    rays,
    counts,
    edge_step,
    state,
    image,
    geometry,
    marked,
):
    """Copy unambiguous pixels from the atlas to images, and mark pixels for the second pass. Return how many.

    Marked are pixels whose ray passed close to an edge, and unambiguous ones next to an edge that may cut them.

    Args:
        shades: ``(H, W, 4)`` bytes of the first pass: shade, alpha, and depth from 0 to 255 through the unit ball.
        surface: ``(H, W, 4)`` normal and depth; of height 0 without geometry.
        rays: ``(N, 4)``, see :func:`renderers.opengl.voxel_raycast.ray_culling_numba.cull_rays`.
        counts: ``(B,)`` number of rays of each grid.
        edge_step: an edge separates a pixel from a neighbour whose depth is larger by more than this.
        state: ``(S + 2, S + 2, 2)`` bytes, work space for alpha and depth; its border is UNAMBIGUOUS with depth 0.
        image: ``(2, B, S, S)``, written: image and alpha.
        geometry: ``(4, B, S, S)``, written with geometry: normal and depth.
        marked: ``(N, 4)`` int32, written: the rays of marked pixels.
    """
    marked_count, end = 0, 0
    for grid in range(len(counts)):
        begin, end = end, end + counts[grid]
        state[1:-1, 1:-1, 0] = 0
        for n in range(begin, end):
            row, column = _atlas_position(n, shades.shape[1])
            x, y = rays[n, 0] & 0xFFFF, rays[n, 0] >> 16
            alpha = shades[row, column, 1]
            state[y + 1, x + 1, 0], state[y + 1, x + 1, 1] = alpha, shades[row, column, 2]
            if alpha == UNAMBIGUOUS:
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
            if own == UNAMBIGUOUS:
                edges = 0
                for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                    neighbour = state[row, column, 0]
                    if neighbour == CLOSE_EDGE:
                        edges += 1
                    elif neighbour != UNAMBIGUOUS or state[row, column, 1] > state[y, x, 1] + edge_step:
                        edges += 2
                if edges < 2:
                    continue
            for channel in range(4):
                marked[marked_count, channel] = rays[n, channel]
            marked_count += 1
    return marked_count


@compiled
@no_type_check
def _atlas_position(n, width):
    """Row and column of ray n in the atlas: blocks of 4x4 along bands."""
    block = n >> 4
    blocks_per_band = width >> 2
    return 4 * (block // blocks_per_band) + (n >> 2 & 3), 4 * (block % blocks_per_band) + (n & 3)
