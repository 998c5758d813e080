"""Networks whose features compare sets of images."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from networks import InceptionV3, RenderClassifier
from renderers import InputError
from utils.files import cache_root, write_atomically
from utils.progress import Progress
from utils.torch_io import load_state

WEIGHTS = Path(__file__).parent / "weights"
NETWORKS = {"renders_small": RenderClassifier, "renders": InceptionV3, "imagenet": InceptionV3}
EXTRACTORS = tuple(NETWORKS)
IMAGENET_FILE = "pt_inception-2015-12-05-6726825d.pth"
IMAGENET_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
IMAGENET_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{IMAGENET_FILE}"
MAKE = {
    "renders_small": "make extractor",
    "renders": "python -m trainer fit --config extractor_renders.yaml, then "
    "python -m trainer export-extractor RUN FILE",
}


class FeatureExtractor(nn.Module):
    """Byte images to features, in float64, so that no feature depends on the batch that it is computed in.

    Args:
        name: as users ask for it.
        network: has ``num_features`` and ``features``.
        checksum: of the weights.
        label: as figures state it: the name, and for weights of the user's own their checksum.
    """

    def __init__(
        self, name: str, network: RenderClassifier | InceptionV3, checksum: str, label: str | None = None
    ) -> None:
        super().__init__()
        self.name, self.checksum, self.num_features = name, checksum, network.num_features
        self.label = label or name
        self.network = network.double().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Features of images in 0..255."""
        return self.network.features(images.double() / 255)


def load_extractor(name: str, path: str | Path | None = None, cache_dir: str | Path | None = None) -> FeatureExtractor:
    """An extractor by name.

    - ``renders_small``: :class:`networks.RenderClassifier` trained on procedural renders by ``make extractor``; comes with
      the project, and ``path`` names other weights of the same kind.
    - ``renders``: :class:`networks.InceptionV3` trained on renders by ``extractor_renders.yaml`` (IG-GAN, supplement B.2);
      ``path`` must be given.
    - ``imagenet``: :class:`networks.InceptionV3` with the weights of published FIDs, from ``path`` or the cache, into which
      they are fetched once; their SHA-256 is checked whenever they are loaded.

    Args:
        name: one of the above.
        path: a file of weights.
        cache_dir: where fetched weights are kept; default $UNRENDER_CACHE or ~/.cache/unrender.

    Raises:
        InputError: an unknown name, or weights that are not there, not of this kind, or with another checksum.
    """
    if name not in EXTRACTORS:
        raise InputError(f"no feature extractor is called {name!r}; choose from {', '.join(EXTRACTORS)}")
    if path is None and name == "renders":
        raise InputError(f"extractor 'renders' needs a file of weights; make one with: {MAKE[name]}")
    if name == "imagenet":
        file = Path(path) if path else imagenet_weights(cache_dir)
    else:
        file = Path(path) if path else WEIGHTS / f"{name}.pt"
    if not file.is_file():
        raise InputError(f"the weights of extractor {name!r} are not at {file}; {_remedy(name)}")
    return _load(name, file.absolute(), own=path is not None and name != "imagenet")


def imagenet_weights(cache_dir: str | Path | None = None) -> Path:
    """The file of the published weights in the cache, downloaded if it is not there yet.

    Raises:
        InputError: the download fails, or what came has another checksum.
    """
    file = cache_root(cache_dir) / "extractors" / IMAGENET_FILE
    if file.is_file():
        return file
    try:
        write_atomically(file, _download)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise InputError(
            f"the weights of extractor 'imagenet' could not be fetched from {IMAGENET_URL} ({reason}); "
            f"fetch them elsewhere and put them at {file}, or name the file as the extractor's weights"
        ) from error
    return file


def _download(file: Path) -> None:
    with urllib.request.urlopen(IMAGENET_URL, timeout=30) as source, file.open("wb") as target:
        size = int(source.headers.get("Content-Length") or 0) or None
        with Progress(size, f"downloading {IMAGENET_FILE}", "byte") as bar:
            while part := source.read(1 << 20):
                target.write(part)
                bar.update(len(part))
    if (found := _sha256(file)) != IMAGENET_SHA256:
        raise InputError(
            f"{IMAGENET_URL} gave a file with SHA-256 {found[:16]}…, not {IMAGENET_SHA256[:16]}…: the download was cut "
            "short or changed on its way; run the command again"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remedy(name: str) -> str:
    return f"make them with: {MAKE[name]}" if name in MAKE else f"fetch them from {IMAGENET_URL}"


@lru_cache(maxsize=4)
def _load(name: str, file: Path, own: bool) -> FeatureExtractor:
    found = _sha256(file)
    if name == "imagenet" and found != IMAGENET_SHA256:
        raise InputError(
            f"{file} has SHA-256 {found[:16]}… where {IMAGENET_FILE} has {IMAGENET_SHA256[:16]}…; remove it and "
            f"{_remedy(name)}"
        )
    try:
        state = load_state(file)
    except InputError as error:
        raise InputError(f"{error}; {_remedy(name)}") from error
    try:
        if name == "imagenet":
            network: RenderClassifier | InceptionV3 = InceptionV3([str(i) for i in range(1008)], channels=3)
        else:
            network = _sized(name, state["classes"], state["sizes"], sum(w.numel() for w in state["weights"].values()))
            state = state["weights"]
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except Exception as error:  # whatever a damaged or foreign file leads to
        raise InputError(f"{file} does not hold the weights of extractor {name!r}; {_remedy(name)}") from error
    return FeatureExtractor(name, network, found[:16], f"{name} ({found[:8]})" if own else name)


def _sized(name: str, classes: list[str], sizes: dict[str, int], weights: int) -> RenderClassifier | InceptionV3:
    """The network that a file describes, which may take no more memory than the weights that it holds."""
    with torch.device("meta"):
        described = NETWORKS[name](classes, **sizes)
    if sum(w.numel() for w in described.state_dict().values()) != weights:
        raise ValueError("the weights are not those of the sizes")
    return NETWORKS[name](classes, **sizes)
