import pytest
import torch

from renderers.meshes.grid_mesh import grid_mesh


def test_grid_of_the_paper():
    faces, uvs = grid_mesh(128)
    assert faces.shape == (24858, 3)
    assert uvs.shape == (128**2, 2)
    assert uvs[0].tolist() == [0, 0] and uvs[127].tolist() == [1, 0] and uvs[-1].tolist() == [1, 1]
    assert ((2 * uvs[faces] - 1).norm(dim=-1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("size", [2, 3, 9, 32])
def test_faces_are_counter_clockwise_and_tile_the_disc(size):
    faces, uvs = grid_mesh(size)
    a, b, c = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * uvs[:, 1]], -1)[faces].unbind(1)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert torch.allclose(area, torch.full_like(area, 2 / (size - 1) ** 2))
    if size == 32:
        assert abs(area.sum() - torch.pi) < 0.35


def test_size_below_two_raises():
    with pytest.raises(ValueError, match="at least 2 vertices, got 1"):
        grid_mesh(1)
