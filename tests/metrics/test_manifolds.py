import numpy as np
import pytest
import torch

from metrics import ManifoldMetrics
from metrics.manifolds import MANIFOLD_METRICS, MIN_IMAGES, manifold_metrics


def features(n: int, seed: int, scale: float = 1.0, shift: float = 0.0, d: int = 6) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale + shift


def brute_force(real: np.ndarray, fake: np.ndarray, k: int, k_density: int) -> dict[str, float]:
    """The definitions of the two papers, one pair of features at a time."""

    def radius(points, i, k):
        others = np.delete(points, i, 0)
        return sorted(np.linalg.norm(other - points[i]) for other in others)[k - 1]

    def contains(points, i, k, x):
        return bool(np.linalg.norm(x - points[i]) <= radius(points, i, k))

    def in_any(points, k, x):
        return any(contains(points, i, k, x) for i in range(len(points)))

    balls = np.array([[contains(real, i, k_density, x) for x in fake] for i in range(len(real))])
    return {
        "precision": np.mean([in_any(real, k, x) for x in fake]),
        "recall": np.mean([in_any(fake, k, x) for x in real]),
        "density": balls.sum() / (k_density * len(fake)),
        "image_coverage": balls.any(1).mean(),
    }


def measure(metric: ManifoldMetrics, real: torch.Tensor, fake: torch.Tensor, size: int = 10**6) -> dict[str, float]:
    for x, kind in ((real, True), (fake, False)):
        for part in x.split(size):
            metric.update(part, real=kind)
    return metric.compute()


@pytest.mark.parametrize(("k", "k_density"), [(1, 2), (3, 5), (2, 1)])
def test_matches_the_definitions_of_the_papers(k, k_density, monkeypatch):
    monkeypatch.setattr("metrics.manifolds.CHUNK", 7)
    real, fake = features(30, 0), features(20, 1, 1.2, 0.3)
    values = manifold_metrics(real, fake, k, k_density)
    assert tuple(values) == MANIFOLD_METRICS
    assert values == pytest.approx(brute_force(real.numpy(), fake.numpy(), k, k_density))
    assert 0 < min(values.values()) and max(values[name] for name in MANIFOLD_METRICS if name != "density") < 1


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_repeated_images_are_inside_balls_of_radius_0(seed):
    points = torch.rand(40, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10
    real, fake = points.repeat_interleave(8, 0), points[torch.arange(257) % 40]
    values = manifold_metrics(real, fake)
    assert values == {"precision": 1.0, "recall": 1.0, "density": pytest.approx(8 / 5), "image_coverage": 1.0}


def test_equal_and_disjoint_sets():
    x = features(200, 0)
    same = measure(ManifoldMetrics(), x, x.flip(0))
    assert (
        1 <= same.pop("density") <= 6 / 5
    )  # its own ball, those of 4 neighbours, and up to rounding that of the fifth
    assert set(same.values()) == {1.0}
    assert set(measure(ManifoldMetrics(), x, x + 100).values()) == {0.0}


def test_features_that_are_not_finite_do_not_match():
    x = features(50, 0)
    figures = manifold_metrics(x, torch.full_like(x, torch.nan))
    assert not any(value > 0 for value in figures.values())


def test_expectations_of_independent_samples_of_one_distribution():
    values = measure(ManifoldMetrics(), features(2000, 0), features(2000, 1))
    assert values["density"] == pytest.approx(1, abs=0.05)
    assert values["image_coverage"] == pytest.approx(1 - 2**-5, abs=0.01)


def test_faults_cost_precision_and_density_and_missing_variety_costs_recall_and_coverage():
    real = features(500, 0)
    same = measure(ManifoldMetrics(), real, features(500, 1))
    narrow = measure(ManifoldMetrics(), real, features(500, 1, 0.3))
    wide = measure(ManifoldMetrics(), real, features(500, 1, 3.0))
    for fidelity, diversity in (("precision", "recall"), ("density", "image_coverage")):
        assert narrow[diversity] < 0.4 * same[diversity] and narrow[fidelity] >= same[fidelity]
        assert wide[fidelity] < 0.5 * same[fidelity]
    assert wide["recall"] >= same["recall"]


def test_density_resists_a_real_outlier_and_coverage_a_generated_one():
    """The reasons of Naeem et al.: one ball of an outlier spans much of the space."""
    real, far = features(300, 0), features(300, 1, 0.2, 8.0)
    outlier = torch.full((1, 6), 16.0, dtype=torch.float64)
    values = measure(ManifoldMetrics(), torch.cat([real, outlier]), far)  # generated images are far from all others
    assert values["precision"] == 1 and values["density"] == pytest.approx(1 / 5)
    values = measure(ManifoldMetrics(), real, torch.cat([far, -outlier]))
    assert values["recall"] > 0.9 and values["image_coverage"] == 0


def test_does_not_depend_on_batches_or_order():
    real, fake = features(150, 0), features(150, 1, 0.7)
    expected = measure(ManifoldMetrics(limit=120), real, fake)
    assert measure(ManifoldMetrics(limit=120), real.flip(0), fake[torch.randperm(150)], 13) == expected
    assert expected != measure(ManifoldMetrics(), real, fake)


def test_too_few_images_give_nothing():
    real = features(MIN_IMAGES, 0)
    assert measure(ManifoldMetrics(), real, features(MIN_IMAGES - 1, 1)) == {}
    assert ManifoldMetrics().compute() == {}
    assert tuple(measure(ManifoldMetrics(), real, real)) == MANIFOLD_METRICS


def test_reset_keeps_the_real_images():
    metric = ManifoldMetrics()
    first = measure(metric, features(120, 0), features(120, 1))
    metric.reset()
    metric.update(features(120, 1), real=False)
    assert metric.compute() == first
