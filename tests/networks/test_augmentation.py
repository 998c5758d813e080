import pytest
import torch

from networks import AdaptiveAugment, DiffAugment
from networks.augmentation import change_color, in_square, translate
from renderers import InputError, ViewDistribution

ALL = {"color": True, "mirror": True}


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, DiffAugment.numbers, generator=torch.Generator().manual_seed(seed))


def images(n: int = 4, channels: int = 3, size: int = 8, **options) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1), **options)


def test_translation_shifts_by_whole_pixels_and_fills_with_black():
    x = torch.arange(1.0, 10).view(1, 1, 3, 3).repeat(2, 1, 1, 1)
    moved = translate(x, torch.tensor([1, -2]), torch.tensor([-1, 0]))
    assert moved[0, 0].tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0]]
    assert moved[1, 0].tolist() == [[7, 8, 9], [0, 0, 0], [0, 0, 0]]


def test_square_is_cut_at_the_border():
    inside = in_square((4, 5), torch.tensor([0, 2]), torch.tensor([5, 1]), 2, 2)
    assert inside[0].nonzero().tolist() == [[0, 4]]
    assert inside[1].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]


def test_color_is_changed_as_published():
    x = torch.tensor([0.2, 0.4, 0.6, 0.6, 0.8, 1.0]).view(1, 3, 1, 2)
    half = torch.tensor([0.5])
    assert torch.allclose(change_color(x, half, half, half), x)
    assert torch.allclose(change_color(x, torch.tensor([0.9]), half, half), x + 0.2)
    grey = x.mean(1, keepdim=True)
    assert torch.allclose(change_color(x, half, torch.tensor([0.0]), half), grey.expand_as(x))
    assert torch.allclose(change_color(x, half, half, torch.tensor([0.0])), 0.6 + (x - 0.6) / 2)


def test_shifts_and_squares_have_their_range():
    x = torch.ones(4000, 1, 16, 16)
    moved = DiffAugment(translation=0.125, cutout=0)(x, uniform(4000))
    shifts = {(int((row == 0).all(1).sum()), int((row == 0).all(0).sum())) for row in moved[:, 0]}
    assert shifts == {(i, j) for i in range(3) for j in range(3)}
    cut = 256 - DiffAugment(translation=0, cutout=0.5)(x, uniform(4000)).sum((1, 2, 3))
    assert cut.max() == 64 and cut.min() == 16  # the centre may be a corner
    edge = torch.full((1, DiffAugment.numbers), 1 - 2**-24)
    assert DiffAugment()(x[:1], edge).isfinite().all()


def test_half_of_the_images_are_mirrored():
    x = images(1000, 1)
    y = DiffAugment(translation=0, cutout=0, mirror=True)(x, uniform(1000))
    same, flipped = ((y == other).all(3).all(2).all(1) for other in (x, x.flip(-1)))
    assert (same | flipped).all() and 400 < flipped.sum() < 600


@pytest.mark.parametrize("augment", [DiffAugment(**ALL), AdaptiveAugment(**ALL)])
def test_gradients_are_exact_twice(augment):
    if isinstance(augment, AdaptiveAugment):
        augment.probability.fill_(0.5)
    x = images(3, size=4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, uniform(3)), x)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, uniform(3)) ** 2, x)


def test_a_sample_depends_on_its_own_numbers_only():
    x, u = images(), uniform(4)
    assert torch.equal(DiffAugment(**ALL)(x, u)[1:3], DiffAugment(**ALL)(x[1:3], u[1:3]))


def test_adaptive_probability_gates_each_transform():
    x, u = images(2000, 1), uniform(2000)
    augment = AdaptiveAugment(cutout=0, mirror=True)
    assert torch.equal(augment(x, u), x)
    augment.probability.fill_(1)
    assert torch.equal(augment(x, u), DiffAugment(cutout=0, mirror=True)(x, u))
    augment.probability.fill_(0.3)
    only_mirror = AdaptiveAugment(translation=0, cutout=0, mirror=True)
    only_mirror.probability.fill_(0.3)
    changed = (only_mirror(x, u) != x).any(3).any(2).any(1).float().mean()
    assert changed.item() == pytest.approx(0.15, abs=0.03)


def test_probability_follows_the_signs_of_the_logits():
    augment = AdaptiveAugment(target=0.5, interval=2, adjust_kimg=0.1, max_probability=0.2)
    augment.adapt(torch.tensor([1.0, 1.0, 1.0, -1.0]), 0)  # r_t of both steps is 0.75
    assert augment.probability == 0 and augment.sign_count == 4
    augment.adapt(torch.ones(4), 1)
    assert augment.probability.item() == pytest.approx(8 / 100) and augment.sign_count == 0
    for step in range(2, 8):
        augment.adapt(torch.ones(4), step)
    assert augment.probability.item() == pytest.approx(0.2)
    augment.adapt(torch.tensor([1.0, 1.0, 1.0, -1.0]), 8)
    augment.adapt(torch.tensor([1.0, -1.0, 1.0, -1.0]), 9)  # r_t is 0.25
    assert augment.probability.item() == pytest.approx(0.2 - 8 / 100)
    for step in range(10, 30):
        augment.adapt(-torch.ones(4), step)
    assert augment.probability == 0
    assert set(augment.state_dict()) == {"probability", "sign_sum", "sign_count"}


def test_invalid_arguments_raise():
    with pytest.raises(InputError, match=r"cutout must be .* 1"):
        DiffAugment(cutout=1.5)
    with pytest.raises(InputError, match="augment has no transform; set translation"):
        DiffAugment(translation=0, cutout=0)
    with pytest.raises(InputError, match="interval must be at least 1"):
        AdaptiveAugment(interval=0)


@pytest.mark.parametrize(
    ("azimuth", "symmetric"),
    [((0, 360), True), ((-45, 45), True), ((90, 450), True), ((315, 405), True), ((0, 90), False), ((-60, 45), False)],
)
def test_symmetric_views(azimuth, symmetric):
    assert ViewDistribution(azimuth).symmetric == symmetric
