import numpy as np
import pytest
import scipy.linalg
import torch

from metrics import ImageFID, fid_between, load_extractor, to_bytes
from metrics.manifolds import MANIFOLD_METRICS
from renderers import InputError


@pytest.fixture(scope="module")
def extractor():
    return load_extractor("renders_small")


def images(n: int, seed: int, brightness: float = 1.0) -> torch.Tensor:
    """Soft random blobs, (n, 1, 64, 64) bytes."""
    noise = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * brightness
    return to_bytes(torch.nn.functional.interpolate(noise, (64, 64), mode="bilinear"))


def numpy_fid(a: np.ndarray, b: np.ndarray) -> float:
    mean = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(mean @ mean + np.trace(first + second - 2 * root))


def test_fid_matches_the_numpy_formula_in_float64(extractor):
    a, b = images(400, 0), images(300, 1, 0.7)
    ours = fid_between([a], [b], extractor)
    assert ours == pytest.approx(numpy_fid(extractor(a).numpy(), extractor(b).numpy()), rel=1e-6)
    assert ours > 0.01


def test_spatial_fid_is_the_same_distance_between_spatial_features(extractor):
    a, b = images(400, 0), images(300, 1, 0.7)
    fid = ImageFID(extractor)
    fid.update(a, real=True)
    fid.update(b, real=False)
    (pooled, spatial), (_, other) = (extractor(x, spatial=True) for x in (a, b))
    assert spatial.shape == (400, extractor.num_spatial_features) == (400, 256)
    assert torch.equal(pooled[:5], extractor(a[:5]))
    assert fid.compute_all()["sfid"] == pytest.approx(numpy_fid(spatial.numpy(), other.numpy()), rel=1e-6)


@pytest.mark.parametrize("size", [32, 64, 100, 128])
def test_spatial_features_of_any_image_size_see_where_things_are(extractor, size):
    image = torch.zeros(1, 1, size, size, dtype=torch.uint8)
    image[..., size // 4 : size // 2, size // 4 : size // 2] = 200
    _, spatial = extractor(image, spatial=True)
    _, mirrored = extractor(image.flip(-1), spatial=True)
    assert spatial.shape == (1, extractor.num_spatial_features)
    assert (spatial - mirrored).norm() > 0.5 * spatial.norm()


@pytest.mark.parametrize("seed", range(4))
def test_identical_sets_have_distance_0_which_rounding_never_makes_negative(extractor, seed):
    fid, a = ImageFID(extractor), images(300, seed)
    fid.update(a, real=True)
    fid.update(a.flip(0), real=False)
    assert 0 <= fid.compute() < 1e-4 and 0 <= fid.compute_all()["sfid"] < 1e-4


def test_fid_does_not_depend_on_the_batch_size(extractor):
    a, b = images(200, 0), images(200, 1, 0.7)
    assert fid_between(a.split(1), b.split(7), extractor) == pytest.approx(fid_between([a], [b], extractor), abs=1e-8)


@pytest.mark.slow
def test_fid_grows_with_the_difference(extractor):
    a = images(300, 0)
    distances = [fid_between([a], [images(300, 1, s)], extractor) for s in (1.0, 0.8, 0.5, 0.1)]
    assert distances == sorted(distances)


def test_floats_are_rounded_to_bytes(extractor):
    a, b = images(100, 0), images(100, 1)
    assert fid_between([a.float() / 255], [b], extractor) == pytest.approx(fid_between([a], [b], extractor), abs=1e-9)


def test_real_statistics_are_cached_by_key(extractor, tmp_path):
    first = ImageFID(extractor, tmp_path)
    first.update(images(100, 0), real=True)
    first.save_real("chairs")
    second = ImageFID(extractor, tmp_path)
    assert not second.load_real("couches")
    assert second.load_real("chairs")
    for fid in (first, second):
        fid.update(images(100, 1), real=False)
    assert (
        first.compute_all() == second.compute_all() and {"fid", "sfid", *MANIFOLD_METRICS} == first.compute_all().keys()
    )
    assert first.counts() == {"real": 100, "fake": 100}
    next(tmp_path.iterdir()).write_bytes(b"corrupt")
    assert not ImageFID(extractor, tmp_path).load_real("chairs")


def test_statistics_of_earlier_versions_are_recomputed(extractor, tmp_path):
    """Version 0.1.0 cached no spatial statistics, and features only for KID."""
    fid = ImageFID(extractor, tmp_path)
    fid.update(images(100, 0), real=True)
    fid.save_real("chairs")
    (file,) = tmp_path.iterdir()
    state = torch.load(file, weights_only=True)
    for missing in (["real_features"], [key for key in state if "spatial" in key]):
        torch.save({key: value for key, value in state.items() if key not in missing}, file)
        new = ImageFID(extractor, tmp_path)
        assert not new.load_real("chairs") and new.counts()["real"] == 0
    torch.save(state | {"spatial_real_features_cov_sum": torch.zeros(3, 3)}, file)
    assert not ImageFID(extractor, tmp_path).load_real("chairs")
    torch.save(state, file)
    assert ImageFID(extractor, tmp_path).load_real("chairs")


def test_rejects_too_few_images(extractor):
    fid = ImageFID(extractor)
    fid.update(images(1, 0), real=True)
    with pytest.raises(ValueError, match="at least two images"):
        fid.compute()


def test_rejects_unknown_extractors_and_missing_or_corrupt_weights(tmp_path):
    with pytest.raises(InputError, match="unknown feature extractor 'imagnet'"):
        load_extractor("imagnet")
    with pytest.raises(InputError, match=r"do not exist at .*nowhere.pt; create them with: make extractor"):
        load_extractor("renders_small", tmp_path / "nowhere.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk.pt cannot be loaded: the file is corrupt"):
        load_extractor("renders_small", tmp_path / "junk.pt")
