import pytest
import torch

from metrics.shape_comparison import find_quarter_turn


def spheres_with_a_bump(side: int, seed: int) -> torch.Tensor:
    """100 clouds on a sphere; one point in 100 lies on a bump at z = ±0.3, the only difference between front and back."""
    g = torch.Generator().manual_seed(seed)
    points = 0.3 * torch.nn.functional.normalize(torch.randn(100, 1024, 3, generator=g), dim=2)
    bump = torch.rand(100, 1024, generator=g) < 0.01
    points[..., 2] = torch.where(bump, side * (0.3 + 0.05 * torch.rand(100, 1024, generator=g)), points[..., 2])
    return points


@pytest.mark.parametrize("seed", range(6))
def test_a_small_difference_tells_front_from_back(seed):
    """The default number of shapes and points suffices; 32 shapes of 128 points do not."""
    reference = spheres_with_a_bump(1, 50 + seed)
    assert find_quarter_turn(spheres_with_a_bump(-1, seed), reference) == 2
    assert find_quarter_turn(spheres_with_a_bump(1, seed), reference) == 0
