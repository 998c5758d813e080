"""Numba kernels that find where the surface of a grid can be in an image: one byte per cell, and a list of rays."""

# ruff: noqa: ANN001, ANN201, ANN202 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.numba_jit import compiled

SLICES = 31  # depth slices: the bits of a positive int32
OFF_CENTRE = 0.375 + 1e-3  # largest distance in pixels, along either axis, from a pixel's centre to a sample
# Bits of the largest valid occupancy. The bits of negative floats and NaN, as unsigned integers, are larger.
MAX_OCCUPANCY_BITS = np.float32(1.001).view(np.uint32)


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
    """Write the cells of a batch of grids, and list the pixels whose samples may hit front-facing surface.

    Return whether all values are certainly in [0, 1]. If False, check again: -0.0 also gives False.

    Args:
        volumes: ``(B, D, D, D)``, float32 or uint8.
        bits: the same memory as uint32; an array of no grids skips the check of values.
        threshold: voxels are solid above it; of the volumes' dtype.
        cubes: whether the codes are 255 for solid voxels, each of which fills its cell.
        extents: ``(B, 256, 6)``, see :func:`code_extents`.
        rotations: ``(B, 3, 3)`` float32, world to camera.
        view: number of voxels along the grid's edge; the camera's distance and half_extent; whether it is perspective.
        solid: ``(Y + 2, Y, X)`` bytes, work space; zero in the padding.
        cells: ``(B, Y, Y, X / 8)`` words of eight bytes, little-endian, written. Cell (i, j, k) joins the padded voxels
            (i, j, k) to (i+1, j+1, k+1); bit ``dx + 2 dy + 4 dz`` is set if voxel (i+dx, j+dy, k+dz) is solid.
        codes: the words for the shader, written: ``cells``, or with ``cubes`` another array of that shape.
        slices: ``(S, S)`` int32, work space of the image's size; zero before and after.
        near: ``(S, S)`` float32, work space; infinite before and after.
        rays: ``(N, 4)`` int32, written, grid by grid, ordered such that rays of neighbouring pixels are close. The
            columns are x + (y << 16) of the pixel; the index of the grid; the depth slices that have surface, as bits; and
            the least depth, the bits of a float32.
        views: ``(B, 4, 4)`` float32, written: rows of the rotation, and :func:`depth_slices`.
        counts: ``(B,)``, written: number of rays of each grid.
    """
    row, plane = cells.shape[3], cells.shape[2] * cells.shape[3]
    words = solid.reshape(-1).view(np.uint64)
    visible_cells = np.empty(plane * 8, np.uint32)
    visible = np.empty(256, np.uint8)
    largest, begin = np.uint32(0), 0
    for i in range(len(volumes)):
        rotation = rotations[i]
        for code in range(256):
            visible[code] = extents[i, code, 0] < np.inf
        for k in range(cells.shape[1]):
            # All steps plane by plane, while the plane is in the CPU's cache.
            if k < volumes.shape[1]:
                _threshold(volumes[i, k], threshold, solid[k + 1])
                if len(bits):
                    largest = max(largest, _max_bits(bits[i, k].reshape(-1)))
            _write_codes(words[k * plane :], cells[i, k].reshape(-1), row, plane)
            count = _find_visible(cells[i, k], visible, visible_cells)
            if count:
                _splat(visible_cells[:count], extents[i], k, rotation, view, slices, near)
        if cubes:
            for k in range(cells.shape[1]):
                solids, out = words[k * plane : (k + 1) * plane], codes[i, k].reshape(-1)
                for p in range(plane):
                    out[p] = solids[p] * np.uint64(255)
        for axis in range(3):
            for column in range(3):
                views[i, axis, column] = rotation[axis, column]
        views[i, 3, 0], views[i, 3, 1] = depth_slices(rotation, view[0], view[1])
        counts[i] = _collect_rays(slices, near, i, rays[begin:])
        begin += counts[i]
    return largest <= MAX_OCCUPANCY_BITS


@compiled
@no_type_check
def code_extents(outward, points, distances, rotations, view):
    """Return bounding boxes ``(B, 256, 6)`` of the surface of each code in the camera frame, as float32.

    They are (left, right, bottom, top, back, front) relative to corner 0 of the cell. The box of a code without surface,
    or without surface that may face the viewer, is (inf, -inf, inf, -inf, inf, -inf).

    Args:
        outward: ``(256, N, 3)``, see :func:`renderers.opengl.voxel_raycast.marching_cubes_table.outward_normals`.
        points: ``(P, 3)``, see :func:`renderers.opengl.voxel_raycast.marching_cubes_table.surface_points`.
        distances: ``(P, 256)``, see there.
        rotations: see :func:`cull_rays`.
        view: see there.
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
                offset = np.float32((x * points[p, 0] + y * points[p, 1] + z * points[p, 2]) / voxels)
                for code in range(256):
                    low[code] = min(low[code], offset + distances[p, code])
                    high[code] = max(high[code], offset - distances[p, code])
            for code in range(256):
                extents[i, code, 2 * axis], extents[i, code, 2 * axis + 1] = low[code] - slack, high[code] + slack
        right, up, back = rotations[i, 2]
        for code in range(256):
            faces_viewer = False
            for n in range(outward.shape[1]):
                x, y, z = outward[code, n]
                faces_viewer |= (x != 0 or y != 0 or z != 0) and right * x + up * y + back * z > -margin
            if not faces_viewer:
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
def _max_bits(bits):
    """Return the largest value. Unlike for floats, which may be NaN, the compiler vectorizes this loop."""
    largest = np.uint32(0)
    for i in range(len(bits)):
        largest = max(largest, bits[i])
    return largest


@compiled
@no_type_check
def _write_codes(solid, codes, row, plane):
    """Compute codes, eight cells at a time, of words at distances ``row`` along y and ``plane`` along z.

    Words are little-endian: the next voxel along x is 8 bits up, and its bit in a code is the next one.
    """
    two, seven, four, last = np.uint64(2), np.uint64(7), np.uint64(4), np.uint64(57)
    # Slices instead of offsets: the compiler vectorizes only indices that cannot be negative.
    a, b, c, d = solid, solid[row:], solid[plane:], solid[plane + row :]
    a1, b1, c1, d1 = a[1:], b[1:], c[1:], d[1:]
    for p in range(len(codes)):
        low = a[p] | a[p] >> seven | a1[p] << last | (b[p] | b[p] >> seven | b1[p] << last) << two
        high = c[p] | c[p] >> seven | c1[p] << last | (d[p] | d[p] >> seven | d1[p] << last) << two
        codes[p] = low | high << four


@compiled
@no_type_check
def _find_visible(cells, visible, out):
    """Write the visible cells of a plane, each ``column | row << 12 | code << 24``. Return how many."""
    count = 0
    for j in range(cells.shape[0]):
        for word in range(cells.shape[1]):
            eight = cells[j, word]
            if eight == 0 or eight == np.uint64(0xFFFFFFFFFFFFFFFF):
                continue
            for b in range(8):
                code = eight & np.uint64(255)
                out[count] = np.uint32(8 * word + b | j << 12) | np.uint32(code) << np.uint32(24)
                count += visible[code]
                eight >>= np.uint64(8)
    return count


@compiled
@no_type_check
def _splat(cells, extent, plane, rotation, view, slices, near):
    """Splat the cells (x, y, ``plane``) to ``slices`` and ``near``, each as the bounding box of its surface."""
    voxels, distance, half_extent, perspective = view
    step, first = np.empty((3, 3), np.float32), np.empty(3, np.float32)
    for axis in range(3):
        x, y, z = rotation[axis]
        step[axis] = rotation[axis] / voxels
        first[axis] = z * plane / voxels - (x + y + z) * (1 + 1 / voxels) / 2  # cell 0 starts at the padding's centre
    start, scale = depth_slices(rotation, voxels, distance)
    # Everything is float32 from here on; Python's literals would make it float64.
    half, middle, off = np.float32(len(slices) / 2), np.float32(len(slices) / 2 + 0.5), np.float32(OFF_CENTRE)
    least, per_depth, away, wide = np.float32(start), np.float32(scale), np.float32(distance), np.float32(half_extent)
    mask = np.uint32(0xFFF)
    zero, one, size = np.float32(0), np.float32(1), np.float32(len(slices))
    for n in range(len(cells)):
        cell = cells[n]
        i, j = np.float32(np.int32(cell & mask)), np.float32(np.int32(cell >> np.uint32(12) & mask))
        code = cell >> np.uint32(24)
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
    """Return the least depth of a grid and the number of slices per unit of depth, which divide its depth equally."""
    deep = (abs(rotation[2, 0]) + abs(rotation[2, 1]) + abs(rotation[2, 2])) * (0.5 + 1 / voxels) + 2e-5 * distance
    return distance - deep, SLICES / (2 * deep)


@compiled
@no_type_check
def _collect_rays(slices, near, grid, rays):
    """Write the rays of the splatted pixels, and clear the work space. Return how many."""
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
