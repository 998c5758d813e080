"""Number of connected components of a voxel grid.

``scipy.ndimage.label`` labels every voxel, which would take most of the time of generating a shape.
"""

# ruff: noqa: ANN001, ANN202 (numba infers the types of kernels)

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Bool

from renderers.numba_jit import compiled


def count_components(solid: Bool[np.ndarray, "D D D"], value: bool = True) -> int:
    """Return the number of 6-connected components of the voxels that equal ``value``."""
    voxels = np.ascontiguousarray(solid).view(np.uint8)
    rows, max_runs = voxels.shape[0] * voxels.shape[1], voxels.shape[2] // 2 + 1
    first = np.empty(rows + 1, np.int32)
    begin, end, parent = (np.empty(rows * max_runs, np.int32) for _ in range(3))
    return int(_count(voxels, int(value), first, begin, end, parent))


@compiled
@no_type_check
def _count(voxels, value, first, begin, end, parent):
    """Join runs along x with those that they touch in the previous row and in the previous plane (union-find)."""
    depth, height, width = voxels.shape
    runs = components = 0
    for z in range(depth):
        for y in range(height):
            row = z * height + y
            first[row] = runs
            x = 0
            while x < width:
                if voxels[z, y, x] != value:
                    x += 1
                    continue
                begin[runs] = x
                while x < width and voxels[z, y, x] == value:
                    x += 1
                end[runs], parent[runs] = x, runs
                runs += 1
                components += 1
            first[row + 1] = runs
            for exists, other in ((y > 0, row - 1), (z > 0, row - height)):
                if not exists:
                    continue
                a, b = first[row], first[other]
                while a < runs and b < first[other + 1]:
                    if begin[a] < end[b] and begin[b] < end[a]:
                        root, other_root = a, b
                        while parent[root] != root:
                            root = parent[root]
                        while parent[other_root] != other_root:
                            other_root = parent[other_root]
                        if root != other_root:
                            parent[max(root, other_root)] = min(root, other_root)
                            components -= 1
                        parent[a] = parent[b] = min(root, other_root)
                    if end[a] < end[b]:
                        a += 1
                    else:
                        b += 1
    return components
