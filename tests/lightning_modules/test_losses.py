import math

import pytest
import torch

from lightning_modules.losses import (
    discriminator_loss,
    generator_loss,
    image_loss,
    output_matching_loss,
    relative_error,
)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_gan_losses_match_formula():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    expected = -(log_sigmoid(2) + log_sigmoid(-1)) / 2 - (log_sigmoid(-0.5) + log_sigmoid(3)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)
    assert generator_loss(fake).item() == pytest.approx(-(log_sigmoid(0.5) + log_sigmoid(-3)) / 2, rel=1e-6)


def test_output_matching_loss_matches_formula():
    proxy, opengl = torch.tensor([0.3, -2.0]), torch.tensor([1.5, 0.0])
    expected = ((log_sigmoid(1.5) - log_sigmoid(0.3)) ** 2 + (log_sigmoid(0) - log_sigmoid(-2)) ** 2) / 2
    assert output_matching_loss(proxy, opengl).item() == pytest.approx(expected, rel=1e-6)


def test_extreme_logits_stay_finite():
    huge = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = discriminator_loss(huge, huge) + generator_loss(huge) + output_matching_loss(huge, -huge.detach())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(huge.grad).all()


def test_image_loss_sums_over_pixels_and_averages_over_the_batch():
    a, b = torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    b[0] = 0.5  # squared error 0.25 at 64 pixels of one of four images
    assert image_loss(a, b).item() == pytest.approx(64 * 0.25 / 4)
    assert image_loss(a.repeat(2, 1, 1, 1), b.repeat(2, 1, 1, 1)).item() == pytest.approx(64 * 0.25 / 4)


def test_relative_error_of_black_image_is_one():
    target = torch.rand(2, 1, 4, 4)
    assert relative_error(torch.zeros_like(target), target).item() == pytest.approx(1)
    assert relative_error(target, target).item() == 0
