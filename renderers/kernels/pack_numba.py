"""Bytes of binary voxel grids, for :mod:`renderers.gl_pack`."""

# ruff: noqa: ANN001, ANN201 (numba types the kernels itself)

from __future__ import annotations

from typing import no_type_check

import numpy as np

from renderers.kernels.compiled import compiled


@compiled
@no_type_check
def write_codes(solid, codes, row, plane):
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
def write_steps(words, full, steps, box):
    """``words`` are the codes, eight cells each; ``full`` is work space for three grids of blocks of 4³."""
    depth, height, width = words.shape
    for k in range(depth // 4):
        for j in range(height // 4):
            for i in range(width):
                found = np.uint64(0)
                for dk in range(2):
                    for dj in range(2):
                        z, y = 4 * k + 2 * dk, 4 * j + 2 * dj
                        four = words[z, y, i] | words[z, y + 1, i] | words[z + 1, y, i] | words[z + 1, y + 1, i]
                        found |= four
                        for di in range(4):
                            pair = (four >> np.uint64(16 * di)) & np.uint64(0xFFFF)
                            steps[2 * k + dk, 2 * j + dj, 4 * i + di] = pair == 0
                for di in range(2):
                    half = (found >> np.uint64(32 * di)) & np.uint64(0xFFFFFFFF)
                    full[0, k, j, 2 * i + di] = half != 0
                    if half != 0:
                        for axis, at in enumerate((2 * i + di, j, k)):
                            if box[1, axis] == 0 or box[0, axis] > 4 * at:
                                box[0, axis] = 4 * at
                            if box[1, axis] < 4 * at + 4:
                                box[1, axis] = 4 * at + 4
    planes, rows, blocks = full.shape[1:]
    for k in range(planes):
        for j in range(rows):
            for i in range(blocks):
                full[1, k, j, i] = (
                    full[0, k, j, max(i - 1, 0)] | full[0, k, j, i] | full[0, k, j, min(i + 1, blocks - 1)]
                )
    for k in range(planes):
        for j in range(rows):
            above, below = max(j - 1, 0), min(j + 1, rows - 1)
            for i in range(blocks):
                full[2, k, j, i] = full[1, k, above, i] | full[1, k, j, i] | full[1, k, below, i]
    for k in range(planes):
        before, behind = max(k - 1, 0), min(k + 1, planes - 1)
        for j in range(rows):
            for i in range(blocks):
                if full[0, k, j, i]:
                    continue
                near = full[2, before, j, i] | full[2, k, j, i] | full[2, behind, j, i]
                for dk in range(2):
                    for dj in range(2):
                        for di in range(2):
                            steps[2 * k + dk, 2 * j + dj, 2 * i + di] = 3 - near
