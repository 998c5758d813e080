"""Networks whose features compare sets of pictures."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from networks import RenderClassifier
from renderers import InputError

WEIGHTS = Path(__file__).parent / "weights"
EXTRACTORS = ("renders_small",)


class FeatureExtractor(nn.Module):
    """Byte pictures to features, in float64, so that no feature depends on the batch that it is computed in.

    Args:
        name: as users ask for it and as figures state it.
        network: has ``num_features`` and ``features``.
        checksum: of the weights.
    """

    def __init__(self, name: str, network: RenderClassifier, checksum: str) -> None:
        super().__init__()
        self.name, self.checksum, self.num_features = name, checksum, network.num_features
        self.network = network.double().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Features of pictures in 0..255."""
        return self.network.features(pictures.double() / 255)


def load_extractor(name: str, path: str | Path | None = None) -> FeatureExtractor:
    """An extractor by name; ``path`` names other weights of the same kind.

    ``renders_small`` is :class:`networks.RenderClassifier`, trained on procedural renders by ``make extractor``; its weights
    come with the project.

    Raises:
        InputError: an unknown name, or weights that are not there or not of this kind.
    """
    if name not in EXTRACTORS:
        raise InputError(f"no feature extractor is called {name!r}; choose from {', '.join(EXTRACTORS)}")
    file = Path(path) if path else WEIGHTS / f"{name}.pt"
    if not file.is_file():
        raise InputError(f"the weights of extractor {name!r} are not at {file}; make them with: make extractor")
    return _load(name, file)


@lru_cache(maxsize=4)
def _load(name: str, file: Path) -> FeatureExtractor:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network = RenderClassifier(state["classes"], **state["sizes"])
        network.load_state_dict({key: value.float() for key, value in state["weights"].items()})
    except Exception as error:  # whatever a damaged or foreign file leads to
        raise InputError(
            f"{file} does not hold the weights of extractor {name!r}; make them with: make extractor"
        ) from error
    return FeatureExtractor(name, network, hashlib.sha256(file.read_bytes()).hexdigest()[:16])
