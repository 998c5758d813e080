"""Meshes for the tests of the soft rasterizer."""

import numpy as np
import torch
import trimesh

from renderers.scenes import TriangleMesh

BACKENDS = ("torch", "numba")


def solid(shape: trimesh.Trimesh) -> TriangleMesh:
    return TriangleMesh(torch.tensor(np.array(shape.vertices))[None].float(), torch.tensor(np.array(shape.faces)))


def square(x: float, y: float, z: float, side: float, dtype=torch.float64):
    """Corners and faces of a square that faces +z; (x, y) is its lower left corner."""
    corners = [[x, y, z], [x + side, y, z], [x + side, y + side, z], [x, y + side, z]]
    return torch.tensor(corners, dtype=dtype), torch.tensor([[0, 1, 2], [0, 2, 3]])


def occlusion(dx, gap: float = 0.2):
    """A bright square, moved by dx, in front of a dark one at distance ``gap``, with vertex colours."""
    front, faces = square(-0.31, -0.33, gap / 2, 0.6)
    back, _ = square(-0.8, -0.8, -gap / 2, 1.6)
    shift = torch.zeros(4, 3, dtype=torch.float64)
    shift[:, 0] = 1
    vertices = torch.cat([front + shift * dx, back])[None]
    colors = torch.cat([torch.tensor([[1.0, 0.8, 0.6]]).expand(4, 3), torch.tensor([[0.1, 0.2, 0.0]]).expand(4, 3)])
    return TriangleMesh(vertices, torch.cat([faces, faces + 4]), colors=colors[None].double())
