"""The fixed grid mesh that MeshGAN's generator deforms."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def grid_mesh(size: int, device: torch.device | str | None = None) -> tuple[Int[Tensor, "F 3"], Float[Tensor, "V 2"]]:
    """Return the faces and UVs of a disc-shaped N × N grid mesh (MeshGAN, section 6).

    Vertex ``row * N + column`` has the UV ``(column, row) / (N - 1)``: each pixel of an N × N shape image is a vertex, in
    row-major order, row 0 at the top. Each cell has two triangles. Only triangles with all vertices in the inscribed disc
    are kept; vertices outside it remain, without a face. At positions ``(2 u - 1, 1 - 2 v, 0)`` the faces are
    counter-clockwise seen from +z.

    Args:
        size: N, vertices along a side; 128 gives 24,858 triangles.
        device: device of the result.

    Returns:
        Faces ``(F, 3)`` and UVs ``(N², 2)`` in [0, 1], (0, 0) at the top left.

    Raises:
        ValueError: if ``size`` is less than 2.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2 vertices, got {size}")
    axis = torch.linspace(0, 1, size, device=device)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    uvs = torch.stack([u, v], -1).view(-1, 2)

    index = torch.arange(size * size, device=device).view(size, size)
    top_left, top_right = index[:-1, :-1], index[:-1, 1:]
    bottom_left, bottom_right = index[1:, :-1], index[1:, 1:]
    cells = torch.stack(
        [
            torch.stack([top_left, bottom_left, top_right], -1),
            torch.stack([top_right, bottom_left, bottom_right], -1),
        ],
        dim=2,
    )
    faces = cells.view(-1, 3)
    # The tolerance keeps the four vertices on the circle despite rounding.
    in_disc = (2 * uvs - 1).square().sum(-1) <= 1 + 1e-6
    return faces[in_disc[faces].all(-1)], uvs
