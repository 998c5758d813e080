"""Where in an image a grid's surface can be: a byte a cell and a list of rays."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.numba_jit import compiled

SLICES = 31  # of depth, bits of a positive int
OFF_CENTRE = 0.375 + 1e-3  # of a pixel: the farthest sample from its centre, along either axis
MOST = np.float32(1.001).view(
    np.uint32
)  # bits of the largest occupancy that is allowed; those of negative ones are larger


@compiled
@no_type_check
def cull_rays(
    volumes,
    bits,
    threshold,
    cubes,
    extents,
    rotations,
    view,
    solid,
    cells,
    codes,
    slices,
    near,
    rays,
    views,
    counts,
):
    """Write the cells of a batch of grids and list the pixels whose samples may meet surface on the viewer's side.

    Returns whether every value was surely in [0, 1]; where not, look again (it may be -0.0).

    Args:
        volumes: ``(B, D, D, D)``, float32 or uint8.
        bits: the same memory as uint32; or of no grids, and the values are not looked at.
        threshold: solid above it, of the volumes' type.
        cubes: codes are solids, 255, each the whole of its cell.
        extents: ``(B, 256, 6)``, see :func:`extents_of_codes`.
        rotations: ``(B, 3, 3)`` float32, world to camera.
        view: voxels along the grid's edge, the camera's distance and half_extent, and whether it is a perspective one.
        solid: ``(Y + 2, Y, X)`` bytes, work space: zero where padding lies.
        cells: ``(B, Y, Y, X / 8)`` words of eight bytes, little-endian, written: cell (i, j, k) joins padded voxels
            (i, j, k) to (i+1, j+1, k+1), and bit ``dx + 2 dy + 4 dz`` is set where voxel (i+dx, j+dy, k+dz) is solid.
        codes: the words for the shader: ``cells``, or with ``cubes`` others of that shape, written.
        slices: ``(S, S)`` int32, work space as large as the image; zero before and after.
        near: ``(S, S)`` float32, work space; infinite before and after.
        rays: ``(N, 4)`` int32, written, one grid after the other, in an order in which rays stand beside their pixels'
            neighbours. Column and row << 16; the grid's number; slices of depth that have such surface, as bits; and the
            bits of the least depth, a float32.
        views: ``(B, 4, 4)`` float32, written: rows of the rotation, and :func:`depth_slices`.
        counts: ``(B,)``, written: how many rays each grid has.
    """
    row, plane = cells.shape[3], cells.shape[2] * cells.shape[3]
    words = solid.reshape(-1).view(np.uint64)
    found = np.empty(plane * 8, np.uint32)
    visible = np.empty(256, np.uint8)
    worst, begin = np.uint32(0), 0
    for i in range(len(volumes)):
        rotation = rotations[i]
        for code in range(256):
            visible[code] = extents[i, code, 0] < np.inf
        for k in range(cells.shape[1]):
            # Plane by plane, while it is at hand.
            if k < volumes.shape[1]:
                _threshold(volumes[i, k], threshold, solid[k + 1])
                if len(bits):
                    worst = max(worst, _largest(bits[i, k].reshape(-1)))
            _write_codes(words[k * plane :], cells[i, k].reshape(-1), row, plane)
            count = _find(cells[i, k], visible, found)
            if count:
                _splat(found[:count], extents[i], k, rotation, view, slices, near)
        if cubes:
            for k in range(cells.shape[1]):
                solids, out = words[k * plane : (k + 1) * plane], codes[i, k].reshape(-1)
                for p in range(plane):
                    out[p] = solids[p] * np.uint64(255)
        for axis in range(3):
            for column in range(3):
                views[i, axis, column] = rotation[axis, column]
        views[i, 3, 0], views[i, 3, 1] = depth_slices(rotation, view[0], view[1])
        counts[i] = _list(slices, near, i, rays[begin:])
        begin += counts[i]
    return worst <= MOST


@compiled
@no_type_check
def extents_of_codes(outward, points, apart, rotations, view):
    """``(B, 256, 6)`` float32: surface of each code from left to right, bottom to top, back to front, as the viewer sees it.

    About corner 0 of the cell. A code without surface, or with none that may face the viewer, reaches from inf to -inf.

    Args:
        outward: ``(256, N, 3)``, see :func:`renderers.opengl.voxel_raycast.marching_cubes_table.outward_normals`.
        points: ``(P, 3)`` and
        apart: ``(P, 256)``, see :func:`renderers.opengl.voxel_raycast.marching_cubes_table.surface_points`.
        rotations: as in :func:`cull_rays`.
        view: as there.
    """
    voxels, distance, _, perspective = view
    extents = np.empty((len(rotations), 256, 6), np.float32)
    low, high = np.empty(256, np.float32), np.empty(256, np.float32)
    slack, margin = np.float32(1e-5 * distance), (1 / distance if perspective else 0.0) + 0.1
    for i in range(len(rotations)):
        for axis in range(3):
            low[:], high[:] = np.inf, -np.inf
            x, y, z = rotations[i, axis]
            for p in range(len(points)):
                at = np.float32((x * points[p, 0] + y * points[p, 1] + z * points[p, 2]) / voxels)
                for code in range(256):
                    low[code] = min(low[code], at + apart[p, code])
                    high[code] = max(high[code], at - apart[p, code])
            for code in range(256):
                extents[i, code, 2 * axis], extents[i, code, 2 * axis + 1] = low[code] - slack, high[code] + slack
        right, up, back = rotations[i, 2]
        for code in range(256):
            faces = False
            for n in range(outward.shape[1]):
                x, y, z = outward[code, n]
                faces |= (x != 0 or y != 0 or z != 0) and right * x + up * y + back * z > -margin
            if not faces:
                extents[i, code] = np.inf, -np.inf, np.inf, -np.inf, np.inf, -np.inf
    return extents


@compiled
@no_type_check
def _threshold(values, threshold, solid):
    size = len(values)
    for j in range(size):
        a, out = values[j], solid[j + 1, 1 : size + 1]
        for i in range(size):
            out[i] = a[i] > threshold


@compiled
@no_type_check
def _largest(bits):
    """The largest as an unsigned number: integers are compared side by side, where NaN forbids it for floats."""
    worst = np.uint32(0)
    for i in range(len(bits)):
        worst = max(worst, bits[i])
    return worst


@compiled
@no_type_check
def _write_codes(solid, codes, row, plane):
    """Eight cells at a time: of words that lie ``row`` apart along y and ``plane`` apart along z.

    Little-endian: the next voxel along x is 8 bits up, and lands one bit up from the voxel itself.
    """
    two, seven, four, far = np.uint64(2), np.uint64(7), np.uint64(4), np.uint64(57)
    a, b, c, d = (
        solid,
        solid[row:],
        solid[plane:],
        solid[plane + row :],
    )  # indices that cannot be negative run in parallel
    a1, b1, c1, d1 = a[1:], b[1:], c[1:], d[1:]
    for p in range(len(codes)):
        low = a[p] | a[p] >> seven | a1[p] << far | (b[p] | b[p] >> seven | b1[p] << far) << two
        high = c[p] | c[p] >> seven | c1[p] << far | (d[p] | d[p] >> seven | d1[p] << far) << two
        codes[p] = low | high << four


@compiled
@no_type_check
def _find(cells, visible, found):
    """The visible cells of a plane, each ``column | row << 12 | code << 24``. How many they are."""
    count = 0
    for j in range(cells.shape[0]):
        for word in range(cells.shape[1]):
            eight = cells[j, word]
            if eight == 0 or eight == np.uint64(0xFFFFFFFFFFFFFFFF):
                continue
            for b in range(8):
                code = eight & np.uint64(255)
                found[count] = np.uint32(8 * word + b | j << 12) | np.uint32(code) << np.uint32(24)
                count += visible[code]
                eight >>= np.uint64(8)
    return count


@compiled
@no_type_check
def _splat(cells, extent, plane, rotation, view, slices, near):
    """Draw the cells (x, y, ``plane``) into ``slices`` and ``near``, each as the upright box around its surface."""
    voxels, distance, half_extent, perspective = view
    step, first = np.empty((3, 3), np.float32), np.empty(3, np.float32)
    for axis in range(3):
        x, y, z = rotation[axis]
        step[axis] = rotation[axis] / voxels
        first[axis] = z * plane / voxels - (x + y + z) * (1 + 1 / voxels) / 2  # cell 0 begins at the padding's centre
    start, scale = depth_slices(rotation, voxels, distance)
    # All float32 from here on: 0, 1 and the like would make it float64.
    half, middle, off = np.float32(len(slices) / 2), np.float32(len(slices) / 2 + 0.5), np.float32(OFF_CENTRE)
    least, per_depth, away, wide = np.float32(start), np.float32(scale), np.float32(distance), np.float32(half_extent)
    mask = np.uint32(0xFFF)
    zero, one, size = np.float32(0), np.float32(1), np.float32(len(slices))
    for n in range(len(cells)):
        cell = cells[n]
        i, j, code = (
            np.float32(np.int32(cell & mask)),
            np.float32(np.int32(cell >> np.uint32(12) & mask)),
            cell >> np.uint32(24),
        )
        right = first[0] + step[0, 0] * i + step[0, 1] * j
        up = first[1] + step[1, 0] * i + step[1, 1] * j
        depth = away - (first[2] + step[2, 0] * i + step[2, 1] * j)
        left, right = right + extent[code, 0], right + extent[code, 1]
        bottom, top = up + extent[code, 2], up + extent[code, 3]
        front, back = depth - extent[code, 5], depth - extent[code, 4]
        if perspective:
            nearer, farther = one / (wide * front), one / (wide * back)
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
def _list(slices, near, grid, rays):
    """Turn what was drawn into rays, and wipe it."""
    as_float, size, n = rays.view(np.float32), len(slices), 0
    for top in range(0, size, 4):
        for x in range(size):
            for y in range(top, min(top + 4, size)):
                if slices[y, x] != 0:
                    rays[n, 0], rays[n, 1], rays[n, 2] = x | y << 16, grid, slices[y, x]
                    as_float[n, 3] = near[y, x]
                    slices[y, x] = 0
                    near[y, x] = np.inf
                    n += 1
    return n
