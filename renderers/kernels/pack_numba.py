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
