"""Where in a picture a grid's surface can be: rays, listed for a shader, and brought back from its sheet."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.kernels.compiled import compiled

SLICES = 31  # of depth, bits of a positive int
OFF_CENTRE = 0.375 + 1e-3  # of a pixel: the farthest sample from its centre, along either axis
CLEAR = 255  # alpha of the first pass; 0 where there is nothing, between them where four samples are needed


@compiled
@no_type_check
def list_rays(
    codes,
    outward,
    rotation,
    view,
    slices,
    near,
    rays,
    begin,
    grid,
):
    """List the pixels whose samples may meet a cell that has surface on the viewer's side. How many they are.

    Args:
        codes: ``(Z, Y, X / 8)``, eight cells a word, :attr:`renderers.gl_pack.GridPacker.cells`.
        outward: ``(256, N, 3)``, see :func:`renderers.gl_cells.outward_normals`.
        rotation: ``(3, 3)`` float32, world to camera.
        view: voxels along the grid's edge, the camera's distance and half_extent, and whether it is a perspective one.
        slices: ``(S, S)`` int32, work space as large as the picture; zero before and after.
        near: ``(S, S)`` float32, work space; infinite before and after.
        rays: ``(H, W, 4)`` int32: written in blocks of 4x4, sixteen rays each, so that rays run side by side with their
            pixels' neighbours. Column and row << 16; ``grid``; slices of depth that have such cells, as bits; and the bits
            of the least depth, a float32.
        begin: how many rays of other grids stand there already.
        grid: this one's number.
    """
    distance, perspective = view[1], view[3]
    visible = _visible(outward, rotation[2], (1 / distance if perspective else 0.0) + 0.1)
    found = np.empty((codes.shape[1] * codes.shape[2] * 8, 2), np.float32)
    for k in range(codes.shape[0]):
        count = 0
        for j in range(codes.shape[1]):
            for word in range(codes.shape[2]):
                eight = codes[k, j, word]
                if eight == 0 or eight == np.uint64(0xFFFFFFFFFFFFFFFF):
                    continue
                for b in range(8):
                    found[count, 0], found[count, 1] = 8 * word + b, j
                    count += visible[eight & np.uint64(255)]
                    eight >>= np.uint64(8)
        if count:
            _splat(found[:count], k, rotation, view, slices, near)
    as_float = rays.view(np.float32)
    size, n = len(slices), begin
    for top in range(0, size, 4):
        for x in range(size):
            for y in range(top, min(top + 4, size)):
                if slices[y, x] != 0:
                    row, column = _place(n, rays.shape[1])
                    rays[row, column, 0], rays[row, column, 1], rays[row, column, 2] = x | y << 16, grid, slices[y, x]
                    as_float[row, column, 3] = near[y, x]
                    slices[y, x] = 0
                    near[y, x] = np.inf
                    n += 1
    return n - begin


@compiled
@no_type_check
def _visible(outward, toward, margin):
    """Of each code, 1 if one of its normals may face the viewer and else 0."""
    visible = np.zeros(256, np.uint8)
    for code in range(256):
        for n in range(outward.shape[1]):
            x, y, z = outward[code, n]
            if (x != 0 or y != 0 or z != 0) and toward[0] * x + toward[1] * y + toward[2] * z > -margin:
                visible[code] = 1
    return visible


@compiled
@no_type_check
def _splat(cells, plane, rotation, view, slices, near):
    """Draw the cells (x, y, ``plane``) into ``slices`` and ``near``, each as the upright box around it."""
    voxels, distance, half_extent, perspective = view
    step, first, reach = np.empty((3, 3), np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    for axis in range(3):
        x, y, z = rotation[axis]
        step[axis] = rotation[axis] / voxels
        first[axis] = z * plane / voxels - (x + y + z) / 2  # cell 0 is half a cube from the centre
        reach[axis] = (abs(x) + abs(y) + abs(z)) / (2 * voxels) + 1e-5 * distance
    start, scale = depth_slices(rotation, voxels, distance)
    # All float32 from here on: 0, 1 and the like would make it float64.
    half, middle, off = np.float32(len(slices) / 2), np.float32(len(slices) / 2 + 0.5), np.float32(OFF_CENTRE)
    least, per_depth, away, extent = np.float32(start), np.float32(scale), np.float32(distance), np.float32(half_extent)
    zero, one, size = np.float32(0), np.float32(1), np.float32(len(slices))
    wide, high, deep = reach
    for n in range(len(cells)):
        i, j = cells[n]
        right = first[0] + step[0, 0] * i + step[0, 1] * j
        up = first[1] + step[1, 0] * i + step[1, 1] * j
        depth = away - (first[2] + step[2, 0] * i + step[2, 1] * j)
        front, back = depth - deep, depth + deep
        left, right, bottom, top = right - wide, right + wide, up - high, up + high
        if perspective:
            nearer, farther = one / (extent * front), one / (extent * back)
            left *= nearer if left < zero else farther
            right *= farther if right < zero else nearer
            bottom *= nearer if bottom < zero else farther
            top *= farther if top < zero else nearer
        x0, x1 = np.int32(max(left * half + middle - off, zero)), np.int32(min(right * half + middle + off, size))
        y0, y1 = np.int32(max(middle - top * half - off, zero)), np.int32(min(middle - bottom * half + off, size))
        bits = np.int32((2 << np.int32((back - least) * per_depth)) - (1 << np.int32((front - least) * per_depth)))
        for y in range(y0, y1):
            for x in range(x0, x1):
                near[y, x] = min(near[y, x], front)
                slices[y, x] |= bits


@compiled
@no_type_check
def depth_slices(rotation, voxels, distance):
    """Least depth, and slices a unit of depth: equal slices of all depths that surface can have."""
    deep = (abs(rotation[2, 0]) + abs(rotation[2, 1]) + abs(rotation[2, 2])) * (0.5 + 1 / voxels) + 2e-5 * distance
    return distance - deep, SLICES / (2 * deep)


@compiled
@no_type_check
def bring_back(
    shades,
    surface,
    rays,
    begin,
    count,
    everywhere,
    state,
    picture,
    geometry,
    marked,
):
    """Copy one grid's pixels from the sheet into its picture, and list those to sample four times. How many.

    Those are the ones whose ray passed close by a surface, and the clear ones beside any that are not.

    Args:
        shades: ``(H, W, 2)`` bytes, shade and alpha of the first pass.
        surface: ``(H, W, 4)`` normal and depth; or of no height, without geometry.
        rays: see :func:`list_rays`.
        begin: of this grid's rays.
        count: of them.
        everywhere: there was no first pass, and all are to be sampled.
        state: ``(S + 2, S + 2)`` bytes, work space whose border is CLEAR.
        picture: ``(2, S, S)``, image and alpha: written.
        geometry: ``(4, S, S)``, normal and depth: written, with geometry.
        marked: ``(N, 4)`` int32: rays as in ``rays`` are written.
    """
    across = rays.shape[1]
    state[1:-1, 1:-1] = 0
    if not everywhere:
        for n in range(begin, begin + count):
            row, column = _place(n, across)
            x, y = rays[row, column, 0] & 0xFFFF, rays[row, column, 0] >> 16
            alpha = shades[row, column, 1]
            state[y + 1, x + 1] = alpha
            if alpha == CLEAR:
                picture[0, y, x] = shades[row, column, 0] * np.float32(1 / 255)
                picture[1, y, x] = 1.0
                if len(surface):
                    for channel in range(4):
                        geometry[channel, y, x] = surface[row, column, channel]
    found = 0
    for n in range(begin, begin + count):
        row, column = _place(n, across)
        if not everywhere:
            x, y = (rays[row, column, 0] & 0xFFFF) + 1, (rays[row, column, 0] >> 16) + 1
            if state[y, x] == 0:
                continue
            if state[y, x] & state[y - 1, x] & state[y + 1, x] & state[y, x - 1] & state[y, x + 1] == CLEAR:
                continue
        for channel in range(4):
            marked[found, channel] = rays[row, column, channel]
        found += 1
    return found


@compiled
@no_type_check
def bring_samples(
    marked,
    resolved,
    points,
    picture,
    geometry,
):
    """Write resolved pixels, bytes ``(N, 2)`` and floats ``(N, 4)``, into pictures ``(2, B, S, S)``, ``(4, B, S, S)``.

    ``marked`` is their rays, see :func:`bring_back`; without geometry there are no floats.
    """
    for n in range(len(marked)):
        x, y, grid = marked[n, 0] & 0xFFFF, marked[n, 0] >> 16, marked[n, 1]
        for channel in range(2):
            picture[channel, grid, y, x] = resolved[n, channel] * np.float32(1 / 255)
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
