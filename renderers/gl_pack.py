"""Binary voxel grids as a shader wants them: a byte a cell."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from renderers.kernels.pack_numba import write_codes


class GridPacker:
    """Turns occupancy into bytes for :mod:`renderers.gl_voxels`, with work buffers kept from grid to grid.

    The grid is padded by at least one empty voxel. Cell (i, j, k) joins padded voxels (i, j, k) to (i+1, j+1, k+1), and its
    code has bit ``dx + 2 dy + 4 dz`` set where voxel (i+dx, j+dy, k+dz) is solid.

    Args:
        size: voxels along an edge, D.
        grids: how many grids the output holds, stacked along z.
        cubes: codes are the solid voxels themselves, 0 or 255, each the whole of its cell.

    Attributes:
        codes: ``(grids, Y, Y, X)`` bytes for the shader.
        cells: ``(grids, Y, Y, X / 8)``, codes as words of eight cells, little-endian; never those of cubes.
    """

    def __init__(self, size: int, grids: int, cubes: bool = False) -> None:
        self.size, self.cubes = size, cubes
        self.x, self.y = 8 * -(-(size + 2) // 8), size + 2
        x, y = self.x, self.y
        self.codes = np.zeros((grids, y, y, x), np.uint8)
        self.cells = (np.zeros_like(self.codes) if cubes else self.codes).view(np.uint64)
        self._solid = np.zeros((y + 2, y, x), np.uint8)  # the last planes stay empty

    def pack(self, occupancy: Shaped[np.ndarray, "D D D"], threshold: float, i: int) -> None:
        """Write grid ``i`` of :attr:`codes` and :attr:`cells`."""
        size = self.size
        inner = self._solid[1 : size + 1, 1 : size + 1, 1 : size + 1]
        if occupancy.dtype == bool:
            inner[...] = occupancy
        else:
            np.greater(occupancy, threshold, out=inner.view(bool))
        row, words = self.x // 8, self._solid.reshape(-1).view(np.uint64)
        write_codes(words, self.cells[i].reshape(-1), row, row * self.y)
        if self.cubes:
            np.multiply(self._solid[:-2], 255, out=self.codes[i])
