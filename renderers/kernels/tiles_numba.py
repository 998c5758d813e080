"""Where in a picture a grid's surface can be: tiles of pixels, listed for a shader, and brought back from its sheet."""

# ruff: noqa: ANN001, ANN201 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.kernels.compiled import compiled

TILE = 4  # pixels along an edge: what software drivers shade at once
CLEAR = 255  # alpha of the first pass; 0 where there is nothing, between them where four samples are needed


@compiled
@no_type_check
def list_tiles(
    steps,
    rotation,
    view,
    size,
    ranges,
    tiles,
):
    """Tiles that blocks with surface may be seen in, and between which depths. How many there are.

    Args:
        steps: ``(Z, Y, X)`` as :class:`renderers.gl_pack.GridPacker` gives them; 0 is a block of 2³ cells with surface.
        rotation: ``(3, 3)``, world to camera.
        view: voxels along the grid's edge, cell coordinate of the cube's lower face, the camera's distance and
            half_extent, and whether it is a perspective one.
        size: of the picture in pixels.
        ranges: ``(T, T, 2)``, work space.
        tiles: ``(T², 4)``: column, row, least and greatest depth are written for each tile, row by row.
    """
    voxels, origin, distance, half_extent, perspective = view
    edge = len(ranges)
    for row in range(edge):
        for column in range(edge):
            ranges[row, column, 0], ranges[row, column, 1] = 1e9, -1e9
    reach = np.empty(3)
    for axis in range(3):
        reach[axis] = (abs(rotation[axis, 0]) + abs(rotation[axis, 1]) + abs(rotation[axis, 2])) / voxels + 1e-5
    half = size / 2
    for k in range(steps.shape[0]):
        z = (2 * k + 1 - origin) / voxels - 0.5
        for j in range(steps.shape[1]):
            y = (2 * j + 1 - origin) / voxels - 0.5
            for i in range(steps.shape[2]):
                if steps[k, j, i] != 0:
                    continue
                x = (2 * i + 1 - origin) / voxels - 0.5
                right = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z
                up = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z
                depth = distance - (rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z)
                near, far = depth - reach[2], depth + reach[2]
                left, bottom = right - reach[0], up - reach[1]
                right, top = right + reach[0], up + reach[1]
                if perspective:
                    left = left / (half_extent * (near if left < 0 else far))
                    right = right / (half_extent * (far if right < 0 else near))
                    bottom = bottom / (half_extent * (near if bottom < 0 else far))
                    top = top / (half_extent * (far if top < 0 else near))
                first, last = int((left + 1) * half) // TILE, int((right + 1) * half) // TILE
                highest, lowest = int((1 - top) * half) // TILE, int((1 - bottom) * half) // TILE
                for row in range(max(highest, 0), min(lowest, edge - 1) + 1):
                    for column in range(max(first, 0), min(last, edge - 1) + 1):
                        ranges[row, column, 0] = min(ranges[row, column, 0], near)
                        ranges[row, column, 1] = max(ranges[row, column, 1], far)
    count = 0
    for row in range(edge):
        for column in range(edge):
            if ranges[row, column, 1] > 0:
                tiles[count, 0], tiles[count, 1] = column, row
                tiles[count, 2], tiles[count, 3] = ranges[row, column, 0], ranges[row, column, 1]
                count += 1
    return count


@compiled
@no_type_check
def bring_back(
    sheet,
    surface,
    tiles,
    band,
    state,
    picture,
    geometry,
    marked,
):
    """Copy one grid's tiles from the sheet into its picture, and list the pixels to sample four times. How many.

    Those are the ones whose ray passed close by a surface, and the clear ones beside any that are not.

    Args:
        sheet: ``(H, 4 T, 2)`` bytes, shade and alpha of the first pass.
        surface: ``(H, 4 T, 4)`` normal and depth; or of no height, without geometry.
        tiles: ``(N, 4)`` of this grid, in the sheet's order.
        band: row of tiles in the sheet that they begin with.
        state: ``(S + 2, S + 2)`` bytes, work space whose border is CLEAR.
        picture: ``(2, S, S)``, image and alpha: written.
        geometry: ``(4, S, S)``, normal and depth: written, with geometry.
        marked: ``(N · 16, 2)``: places in the sheet, column and row, are written.
    """
    size, across = picture.shape[1], sheet.shape[1] // TILE
    state[1:-1, 1:-1] = 0
    for n in range(len(tiles)):
        left, top = TILE * int(tiles[n, 0]), TILE * int(tiles[n, 1])
        x0, y0 = TILE * (n % across), TILE * (band + n // across)
        for i in range(min(TILE, size - top)):
            for j in range(min(TILE, size - left)):
                alpha = sheet[y0 + i, x0 + j, 1]
                state[top + i + 1, left + j + 1] = alpha
                if alpha == CLEAR:
                    picture[0, top + i, left + j] = sheet[y0 + i, x0 + j, 0] * np.float32(1 / 255)
                    picture[1, top + i, left + j] = 1.0
                    if len(surface):
                        for channel in range(4):
                            geometry[channel, top + i, left + j] = surface[y0 + i, x0 + j, channel]
    count = 0
    for n in range(len(tiles)):
        left, top = TILE * int(tiles[n, 0]), TILE * int(tiles[n, 1])
        x0, y0 = TILE * (n % across), TILE * (band + n // across)
        for i in range(min(TILE, size - top)):
            y = top + i + 1
            for j in range(min(TILE, size - left)):
                x = left + j + 1
                if state[y, x] == 0:
                    continue
                if state[y, x] & state[y - 1, x] & state[y + 1, x] & state[y, x - 1] & state[y, x + 1] != CLEAR:
                    marked[count, 0], marked[count, 1] = x0 + j, y0 + i
                    count += 1
    return count


@compiled
@no_type_check
def bring_samples(
    marked,
    resolved,
    points,
    tiles,
    picture,
    geometry,
):
    """Write one grid's resolved pixels, bytes ``(N, 2)`` and floats ``(N, 4)``, into its picture; see :func:`bring_back`.

    ``tiles`` is here ``(rows, T, 4)``, the whole sheet's.
    """
    for n in range(len(marked)):
        x, y = int(marked[n, 0]), int(marked[n, 1])
        column, row = tiles[y // TILE, x // TILE, 0], tiles[y // TILE, x // TILE, 1]
        left, top = TILE * int(column) + x % TILE, TILE * int(row) + y % TILE
        for channel in range(2):
            picture[channel, top, left] = resolved[n, channel] * np.float32(1 / 255)
        if len(points):
            for channel in range(3):
                geometry[channel, top, left] = points[n, channel]
            geometry[3, top, left] = points[n, 3] if resolved[n, 1] > 0 else np.float32(np.inf)
