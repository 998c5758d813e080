import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from metrics import ImageFID, KernelDistance, load_extractor, polynomial_mmd2, to_bytes
from renderers import InputError


def brute_force(x: np.ndarray, y: np.ndarray) -> float:
    d = x.shape[1]

    def k(a, b):
        return (sum(a[i] * b[i] for i in range(d)) / d + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def features(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def kid(real: torch.Tensor, fake: torch.Tensor, *options: int) -> tuple[float, float]:
    metric = KernelDistance(*options)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def test_mmd_matches_the_double_sum():
    x, y = features(5, 0), features(4, 1, 0.3)
    assert float(polynomial_mmd2(x, y)) == pytest.approx(brute_force(x.numpy(), y.numpy()), rel=1e-12)


def test_mmd_matches_torchmetrics():
    x, y = features(9, 0), features(9, 1, 0.3)
    d = x.shape[1]
    k_xx, k_xy, k_yy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    from torchmetrics.image.kid import maximum_mean_discrepancy

    assert float(polynomial_mmd2(x, y)) == pytest.approx(float(maximum_mean_discrepancy(k_xx, k_xy, k_yy)), rel=1e-12)
    assert float(polynomial_mmd2(x, y)) == pytest.approx(float(poly_mmd(x, y, 3, None, 1.0)), rel=1e-12)


def test_a_subset_of_all_images_gives_the_full_mmd():
    x, y = features(30, 0), features(30, 1, 0.5)
    mean, deviation = kid(x, y, 30, 4)
    assert mean == pytest.approx(float(polynomial_mmd2(x, y)), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_is_unbiased_and_grows_with_the_distance():
    x = features(400, 0)
    near, spread = kid(x, features(400, 1), 50, 100)
    assert abs(near) < 3 * spread
    far = [kid(x, features(400, 1, shift), 50, 100)[0] for shift in (0.5, 1.0, 2.0)]
    assert near < far[0] < far[1] < far[2]


def test_kid_does_not_depend_on_batches_or_order():
    x, y = features(60, 0), features(60, 1, 0.5)
    metric = KernelDistance(20, 5)
    for part in x.flip(0).split(7):
        metric.update(part, real=True)
    for part in y[torch.randperm(60)].split(13):
        metric.update(part, real=False)
    assert metric.compute() == pytest.approx(kid(x, y, 20, 5), rel=1e-12)


def test_global_random_state_is_unchanged():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    kid(features(20, 0), features(20, 1), 10, 3)
    assert torch.equal(torch.rand(1), expected)


def test_rejects_too_few_images():
    with pytest.raises(
        InputError, match=r"subsets of 1,000 images, but there are 62 generated images; set kid_subset to"
    ):
        kid(features(1200, 0), features(62, 1))
    with pytest.raises(InputError, match="there are 0 real images"):
        KernelDistance().compute()
    with pytest.raises(InputError, match="at least 2 images"):
        KernelDistance(1)


def test_kid_and_fid_share_one_forward_pass(tmp_path):
    extractor = load_extractor("renders_small")
    calls = []
    hook = extractor.register_forward_hook(lambda *_: calls.append(1))
    noise = torch.Generator().manual_seed(0)
    a, b = (to_bytes(torch.rand(40, 1, 64, 64, generator=noise)) for _ in range(2))
    fid = ImageFID(extractor, tmp_path, kid_subset=20)
    fid.update(a, real=True)
    fid.update(b, real=False)
    assert len(calls) == 2
    hook.remove()
    plain = ImageFID(extractor)
    plain.update(a, real=True)
    plain.update(b, real=False)
    figures = fid.compute_all()
    assert figures.keys() == {"fid", "sfid", "kid", "kid_std"}
    assert plain.compute_all() == {name: figures[name] for name in ("fid", "sfid")}
    assert figures["kid"] == pytest.approx(kid(extractor(a), extractor(b), 20)[0], rel=1e-9)
    assert fid.describe(40, 40).endswith("40 real images, KID over 100 subsets of 20")
    assert (fid.min_images, plain.min_images) == (20, 2)

    fid.save_real("key")
    fid.reset()
    assert fid.counts() == {"real": 40, "fake": 0}
    again = ImageFID(extractor, tmp_path, kid_subset=20)
    assert again.load_real("key")
    assert ImageFID(extractor, tmp_path).load_real("key")  # with or without KID
    again.update(b, real=False)
    assert again.compute_all() == pytest.approx(figures, rel=1e-12)


def test_reset_keeps_the_real_images():
    metric = KernelDistance(10, 5)
    metric.update(features(20, 0), real=True)
    metric.update(features(20, 1), real=False)
    first = metric.compute()
    metric.reset()
    metric.update(features(20, 1), real=False)
    assert metric.compute() == first
