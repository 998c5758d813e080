"""Fréchet Inception Distance between real and generated pictures."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from metrics.extractors import FeatureExtractor
from renderers.files import write_atomically

_REAL = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class PictureFID:
    """torchmetrics' FID with our extractor, in float64, and real statistics that can be kept on disk.

    No ``nn.Module`` on purpose: as a module's attribute it would write the extractor's weights into every checkpoint.

    A figure means nothing without :meth:`describe`: which extractor, how many pictures of each kind.

    Args:
        extractor: features of byte pictures.
        cache_dir: where statistics of real pictures are kept, or None.

    Example:
        >>> import torch
        >>> from metrics import PictureFID, load_extractor
        >>> fid = PictureFID(load_extractor("renders_small"))
        >>> pictures = torch.randint(0, 256, (64, 1, 64, 64), dtype=torch.uint8)
        >>> fid.update(pictures, real=True); fid.update(pictures, real=False)
        >>> abs(fid.compute()) < 1e-4
        True
    """

    def __init__(self, extractor: FeatureExtractor, cache_dir: Path | None = None) -> None:
        self.extractor = extractor
        self.cache_dir = cache_dir
        self.metric = FrechetInceptionDistance(feature=extractor, reset_real_features=False)
        self.metric.set_dtype(torch.float64)

    def to(self, device: torch.device | str) -> PictureFID:
        self.metric.to(device)
        return self

    def update(self, pictures: Tensor, real: bool) -> None:
        """Add pictures ``(B, C, H, W)``: bytes, or floats in [0, 1], which are rounded to bytes first."""
        self.metric.update(to_bytes(pictures), real=real)

    def compute(self) -> float:
        """FID over all ranks' pictures. Every rank must call it.

        Raises:
            ValueError: with fewer than two pictures of either kind.
        """
        if min(self.counts().values()) < 2:
            raise ValueError(f"FID needs at least two pictures of either kind, got {self.counts()}")
        return float(self.metric.compute())

    def reset(self) -> None:
        """Forget the generated pictures; the real ones stay."""
        self.metric.reset()

    def counts(self) -> dict[str, int]:
        """How many pictures this rank has added, by kind."""
        return {
            "real": int(self.metric.real_features_num_samples),
            "fake": int(self.metric.fake_features_num_samples),
        }

    def describe(self, real: int, fake: int) -> str:
        """What a figure must say beside itself."""
        return f"extractor {self.extractor.label}, {fake:,} generated against {real:,} real pictures"

    def load_real(self, key: str) -> bool:
        """Take the real statistics that an earlier run kept under ``key``; False if there are none that fit."""
        if self.cache_dir is None:
            return False
        try:
            state = torch.load(self._file(key), map_location="cpu", weights_only=True)
            for name in _REAL:
                setattr(self.metric, name, state[name].to(self.metric.device))
        except (OSError, KeyError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return False
        return True

    def save_real(self, key: str) -> None:
        """Keep the real statistics of this rank under ``key``, written whole or not at all."""
        if self.cache_dir is None:
            return
        state = {name: getattr(self.metric, name).cpu() for name in _REAL}
        write_atomically(self._file(key), lambda path: torch.save(state, path))

    def _file(self, key: str) -> Path:
        assert self.cache_dir is not None
        whole = hashlib.sha256(f"{key} {self.extractor.name} {self.extractor.checksum}".encode()).hexdigest()[:24]
        return self.cache_dir / f"fid-{whole}.pt"


def to_bytes(pictures: Tensor) -> UInt8[Tensor, "B C H W"]:
    """Bytes as they are; floats in [0, 1] times 255, rounded."""
    if pictures.dtype == torch.uint8:
        return pictures
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def fid_between(real: Iterable[Tensor], fake: Iterable[Tensor], extractor: FeatureExtractor) -> float:
    """FID of two collections of picture batches (bytes or floats in [0, 1])."""
    fid = PictureFID(extractor)
    for batches, is_real in ((real, True), (fake, False)):
        for batch in batches:
            fid.update(batch, real=is_real)
    return fid.compute()
