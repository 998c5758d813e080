import numpy as np
import pytest
import torch

from metrics import PrecisionRecall
from metrics.precision_recall import MIN_IMAGES, precision_recall


def features(n: int, seed: int, scale: float = 1.0, shift: float = 0.0, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """The algorithm of the paper, one feature at a time."""

    def inside(x, points):
        radii = []
        for i, point in enumerate(points):
            others = np.delete(points, i, 0)
            radii.append(np.sort(np.linalg.norm(others - point, axis=1))[k - 1])
        return np.mean([any(np.linalg.norm(a - p) <= r for p, r in zip(points, radii, strict=True)) for a in x])

    return inside(fake, real), inside(real, fake)


def measure(metric: PrecisionRecall, real: torch.Tensor, fake: torch.Tensor, size: int = 10**6) -> dict[str, float]:
    for x, kind in ((real, True), (fake, False)):
        for part in x.split(size):
            metric.update(part, real=kind)
    return metric.compute()


@pytest.mark.parametrize("k", [1, 3])
def test_matches_the_papers_algorithm(k, monkeypatch):
    monkeypatch.setattr("metrics.precision_recall.CHUNK", 7)
    real, fake = features(40, 0), features(30, 1, 1.2, 0.3)
    values = tuple(map(float, precision_recall(real, fake, k)))
    assert values == pytest.approx(brute_force(real.numpy(), fake.numpy(), k))
    assert 0 < min(values) and max(values) < 1


def test_equal_and_disjoint_sets():
    x = features(200, 0)
    assert measure(PrecisionRecall(), x, x.flip(0)) == {"precision": 1.0, "recall": 1.0}
    assert measure(PrecisionRecall(), x, x + 100) == {"precision": 0.0, "recall": 0.0}


def test_faults_cost_precision_and_missing_variety_costs_recall():
    real = features(500, 0)
    same = measure(PrecisionRecall(), real, features(500, 1))
    narrow = measure(PrecisionRecall(), real, features(500, 1, 0.3))
    wide = measure(PrecisionRecall(), real, features(500, 1, 3.0))
    assert narrow["recall"] < 0.3 * same["recall"] and narrow["precision"] >= same["precision"]
    assert wide["precision"] < 0.5 * same["precision"] and wide["recall"] >= same["recall"]


def test_does_not_depend_on_batches_or_order():
    real, fake = features(150, 0), features(150, 1, 0.7)
    expected = measure(PrecisionRecall(limit=120), real, fake)
    assert measure(PrecisionRecall(limit=120), real.flip(0), fake[torch.randperm(150)], 13) == expected
    assert expected != measure(PrecisionRecall(), real, fake)


def test_too_few_images_give_nothing():
    real = features(MIN_IMAGES, 0)
    assert measure(PrecisionRecall(), real, features(MIN_IMAGES - 1, 1)) == {}
    assert PrecisionRecall().compute() == {}
    assert measure(PrecisionRecall(), real, real).keys() == {"precision", "recall"}


def test_reset_keeps_the_real_images():
    metric = PrecisionRecall()
    first = measure(metric, features(120, 0), features(120, 1))
    metric.reset()
    metric.update(features(120, 1), real=False)
    assert metric.compute() == first
