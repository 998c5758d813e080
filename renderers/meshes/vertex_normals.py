"""Smooth vertex normals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def vertex_normals(vertices: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "B V 3"]:
    """Return unit vertex normals: the area-weighted mean of the normals of adjacent faces, in the frame of ``vertices``.

    They point to the side from which the faces are counter-clockwise. A vertex without faces has the normal 0.
    Where face normals cancel, as in a sheet whose faces occur on both sides, rounding determines the direction.
    """
    corners = faces.long().T.reshape(-1)
    a, b, c = vertices.index_select(1, corners).chunk(3, dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add(1, corners, normal.repeat(1, 3, 1))
    return F.normalize(total, dim=-1)
