"""Meshes' topologies that generators deform."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def grid_mesh(size: int, device: torch.device | str | None = None) -> tuple[Int[Tensor, "F 3"], Float[Tensor, "V 2"]]:
    """The circular sheet of MeshGAN, section 6: faces and UVs of the middle of an N × N grid.

    Vertex ``row * N + column`` has the UV ``(column, row) / (N - 1)``: every pixel of an N × N shape image is a vertex,
    in the image's own order, row 0 at the top. Each cell has two triangles; those are kept whose three vertices lie in
    the disc that touches the square's sides. Vertices outside it stay, without a face. Laid out with x to the right and
    y up, ``(2 u - 1, 1 - 2 v, 0)``, the faces turn counter-clockwise seen from +z.

    Args:
        size: N, vertices along a side; 128 gives 24,858 triangles.
        device: of the result.

    Returns:
        Faces ``(F, 3)`` and UVs ``(N², 2)`` in [0, 1], (0, 0) at the top left.
    """
    if size < 2:
        raise ValueError(f"a sheet needs at least 2 vertices a side, got {size}")
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
    # The tolerance keeps the four vertices that touch the circle whatever the rounding.
    in_disc = (2 * uvs - 1).square().sum(-1) <= 1 + 1e-6
    return faces[in_disc[faces].all(-1)], uvs
