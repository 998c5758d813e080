"""Comparison of real and generated images: FID, spatial FID, KID, precision, recall, density and coverage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from metrics.extractors import FeatureExtractor
from metrics.kid import KernelDistance
from metrics.manifolds import ManifoldMetrics
from utils.distributed import gather_over_ranks
from utils.files import save_torch
from utils.torch_io import load_state

CACHE_VERSION = 2  # increase when a change alters the features of the same images
_REAL_STATE = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class ImageFID:
    """FID, spatial FID, :func:`manifold_metrics`, and optionally KID, with cached statistics of real images.

    FID is torchmetrics' in float64. Spatial FID (sFID; Nash et al., 2103.03841, section 5.1) is the same distance between
    spatial features: a few channels of an early layer at each position of a coarse grid. It sees where things are, which
    pooled features do not. All metrics share one forward pass of the extractor.

    This is not an ``nn.Module``, because as a module's attribute it would add the extractor's weights to every checkpoint.
    Report :meth:`describe` with every value: the extractor and the number of images of each kind.

    Args:
        extractor: features of byte images.
        cache_dir: directory for cached statistics of real images, or None.
        kid_subset: images per subset of KID, or 0 for no KID.

    Example:
        >>> import torch
        >>> from metrics import ImageFID, load_extractor
        >>> fid = ImageFID(load_extractor("renders_small"))
        >>> images = torch.randint(0, 256, (64, 1, 64, 64), dtype=torch.uint8)
        >>> fid.update(images, real=True); fid.update(images, real=False)
        >>> abs(fid.compute()) < 1e-4
        True
    """

    def __init__(self, extractor: FeatureExtractor, cache_dir: Path | None = None, kid_subset: int = 0) -> None:
        self.extractor = extractor
        self.cache_dir = cache_dir
        self.metric = _FrechetDistance(extractor.num_features)
        self.spatial = _FrechetDistance(extractor.num_spatial_features)
        self.manifolds = ManifoldMetrics()
        self.kid = KernelDistance(kid_subset) if kid_subset else None

    @property
    def min_images(self) -> int:
        """The minimum number of images of each kind."""
        return max(2, self.kid.subset) if self.kid else 2

    def to(self, device: torch.device | str) -> ImageFID:
        for part in (self.extractor, self.metric, self.spatial, self.manifolds, self.kid):
            if part is not None:
                part.to(device)
        return self

    def update(self, images: Tensor, real: bool) -> None:
        """Add images ``(B, C, H, W)``: bytes, or floats in [0, 1], which are rounded to bytes."""
        features, spatial = self.extractor(to_bytes(images), spatial=True)
        self.metric.update(features, real=real)
        self.spatial.update(spatial, real=real)
        self.manifolds.update(features, real=real)
        if self.kid is not None:
            self.kid.update(features, real=real)

    def compute(self) -> float:
        """Return the FID over the images of all ranks. Every rank must call it.

        Raises:
            ValueError: if there are fewer than two images of either kind.
        """
        counts = {kind: sum(c[kind] for c in gather_over_ranks(self.counts())) for kind in ("real", "fake")}
        if min(counts.values()) < 2:
            raise ValueError(f"FID requires at least two images of each kind, got {counts}")
        return float(self.metric.compute())

    def compute_all(self, frechet: bool = True) -> dict[str, float]:
        """Return all metrics over the images of all ranks. Every rank must call it.

        These are ``fid`` and ``sfid`` unless ``frechet`` is False; with KID ``kid`` and ``kid_std`` over its subsets; and
        with at least :data:`~metrics.manifolds.MIN_IMAGES` images of each kind
        :data:`~metrics.manifolds.MANIFOLD_METRICS`.

        Raises:
            ValueError: if there are fewer than two images of either kind.
            InputError: if there are fewer images of either kind than in a KID subset.
        """
        figures = {"fid": self.compute(), "sfid": float(self.spatial.compute())} if frechet else {}
        if self.kid is not None:
            figures["kid"], figures["kid_std"] = self.kid.compute()
        return figures | self.manifolds.compute()

    def reset(self) -> None:
        """Remove the generated images; keep the real ones."""
        for part in (self.metric, self.spatial, self.manifolds, self.kid):
            if part is not None:
                part.reset()

    def counts(self) -> dict[str, int]:
        """Return the number of images that this rank has added, by kind."""
        return {
            "real": int(self.metric.real_features_num_samples),
            "fake": int(self.metric.fake_features_num_samples),
        }

    def describe(self, real: int, fake: int) -> str:
        """Return the description to report with a value."""
        subsets = f", KID over {self.kid.subsets} subsets of {self.kid.subset:,}" if self.kid else ""
        return f"extractor {self.extractor.label}, {fake:,} generated against {real:,} real images{subsets}"

    def load_real(self, key: str) -> bool:
        """Load real statistics cached under ``key`` by an earlier run; return False if there are none that match."""
        if self.cache_dir is None:
            return False
        try:
            state = load_state(self._file(key))
            # Files of version 0.1.0 have no spatial statistics and are recomputed.
            statistics = [
                (metric, name, self._check_cached(state[prefix + name], getattr(metric, name).shape))
                for prefix, metric in (("", self.metric), ("spatial_", self.spatial))
                for name in _REAL_STATE
            ]
            count = int(state["real_features_num_samples"])
            features = self._check_cached(state["real_features"], (count, self.extractor.num_features))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # includes InputError; recompute
            return False
        for metric, name, value in statistics:
            setattr(metric, name, value)
        for kept in (self.manifolds, self.kid):
            if kept is not None:
                kept.real_features = [features]
        return True

    def _check_cached(self, value: Tensor, shape: Sequence[int]) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != torch.Size(shape) or not value.isfinite().all():
            raise ValueError("cached statistics have the wrong shape or are not finite")
        return value.to(self.metric.device)

    def save_real(self, key: str) -> None:
        """Cache this rank's real statistics under ``key``, atomically."""
        if self.cache_dir is None:
            return
        state = {name: getattr(self.metric, name).cpu() for name in _REAL_STATE}
        state |= {f"spatial_{name}": getattr(self.spatial, name).cpu() for name in _REAL_STATE}
        state["real_features"] = torch.cat(self.manifolds.real_features).cpu()
        save_torch(state, self._file(key))

    def _file(self, key: str) -> Path:
        assert self.cache_dir is not None
        digest = hashlib.sha256(
            f"{CACHE_VERSION} {key} {self.extractor.name} {self.extractor.checksum}".encode()
        ).hexdigest()[:24]
        return self.cache_dir / f"fid-{digest}.pt"


class _FrechetDistance(FrechetInceptionDistance):
    """torchmetrics' distance between precomputed features in float64, at least 0, which rounding can violate."""

    def __init__(self, num_features: int) -> None:
        super().__init__(feature=_PrecomputedFeatures(num_features), reset_real_features=False)
        self.set_dtype(torch.float64)

    def compute(self) -> Tensor:
        return super().compute().clamp(min=0)


class _PrecomputedFeatures(nn.Module):
    """Passes features through torchmetrics' FID, so that all metrics share one forward pass of the extractor."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def to_bytes(images: Tensor) -> UInt8[Tensor, "B C H W"]:
    """Return bytes unchanged, and floats in [0, 1] multiplied by 255 and rounded."""
    if images.dtype == torch.uint8:
        return images
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def fid_between(real: Iterable[Tensor], fake: Iterable[Tensor], extractor: FeatureExtractor) -> float:
    """Return the FID of two collections of image batches (bytes or floats in [0, 1])."""
    fid = ImageFID(extractor)
    for batches, is_real in ((real, True), (fake, False)):
        for batch in batches:
            fid.update(batch, real=is_real)
    return fid.compute()
