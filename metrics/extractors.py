"""Feature extractors for FID and KID."""

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
NETWORKS: dict[str, type[RenderClassifier] | type[InceptionV3]] = {
    "renders_small": RenderClassifier,
    "renders_color": RenderClassifier,
    "renders": InceptionV3,
    "imagenet": InceptionV3,
}
EXTRACTORS = tuple(NETWORKS)
IMAGENET_FILE = "pt_inception-2015-12-05-6726825d.pth"
IMAGENET_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
IMAGENET_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{IMAGENET_FILE}"
TRAIN_COMMANDS = {
    "renders_small": "make extractor",
    "renders_color": "make extractor-color",
    "renders": "python -m trainer fit --config extractor_renders.yaml, then "
    "python -m trainer export-extractor RUN FILE",
}


class FeatureExtractor(nn.Module):
    """Map byte images to features, in float64, so that features do not depend on the batch.

    Args:
        name: one of ``EXTRACTORS``.
        network: has ``num_features``, ``num_spatial_features`` and ``pooled_and_spatial``.
        checksum: of the weights.
        label: reported with metrics: the name, and the checksum of weights given by the user. Defaults to the name.
    """

    def __init__(
        self, name: str, network: RenderClassifier | InceptionV3, checksum: str, label: str | None = None
    ) -> None:
        super().__init__()
        self.name, self.checksum, self.num_features = name, checksum, network.num_features
        self.label = label or name
        self.network = network.double().eval().requires_grad_(False)

    @property
    def sees_color(self) -> bool:
        """Whether features depend on colour; otherwise images are converted to grey."""
        return self.network.channels == 3

    def check_color(self, kind: str = "the images") -> None:
        """Check that the extractor may be used on colour images.

        Args:
            kind: names the images in the error.

        Raises:
            InputError: the extractor converts images to grey.
        """
        if not self.sees_color:
            raise InputError(
                f"{kind} have colour, which extractor {self.name!r} does not see; set extractor to renders_color or imagenet"
            )

    @property
    def num_spatial_features(self) -> int:
        return self.network.num_spatial_features

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, images: UInt8[Tensor, "B C H W"], spatial: bool = False
    ) -> Float[Tensor, "B F"] | tuple[Float[Tensor, "B F"], Float[Tensor, "B S"]]:
        """Return pooled features of images in 0..255; with ``spatial`` also spatial features, of the same pass."""
        features = self.network.pooled_and_spatial(images.double() / 255)
        return features if spatial else features[0]


def load_extractor(name: str, path: str | Path | None = None, cache_dir: str | Path | None = None) -> FeatureExtractor:
    """Load an extractor by name.

    - ``renders_small``: :class:`networks.RenderClassifier` trained on procedural renders by ``make extractor``. Its weights
      are part of the project; ``path`` selects other weights of the same architecture.
    - ``renders_color``: the same network with colour input, trained on coloured and textured renders by
      ``make extractor-color``. Its weights are part of the project as well.
    - ``renders``: :class:`networks.InceptionV3` trained on renders by ``extractor_renders.yaml`` (IG-GAN, supplement B.2);
      ``path`` is required.
    - ``imagenet``: :class:`networks.InceptionV3` with the weights of published FIDs, from ``path`` or the cache, to which
      they are downloaded once. Their SHA-256 is checked at every load.

    Args:
        name: one of the above.
        path: file of weights.
        cache_dir: directory for downloaded weights; default $UNRENDER_CACHE or ~/.cache/unrender.

    Raises:
        InputError: if the name is unknown, or the weights do not exist, are of another kind, or have another checksum.
    """
    if name not in EXTRACTORS:
        raise InputError(f"unknown feature extractor {name!r}; choose from {', '.join(EXTRACTORS)}")
    if path is None and name == "renders":
        raise InputError(f"extractor 'renders' requires a weights file; create one with: {TRAIN_COMMANDS[name]}")
    if name == "imagenet":
        file = Path(path) if path else imagenet_weights(cache_dir)
    else:
        file = Path(path) if path else WEIGHTS / f"{name}.pt"
    if not file.is_file():
        raise InputError(f"the weights of extractor {name!r} do not exist at {file}; {_remedy(name)}")
    return _load(name, file.absolute(), custom=path is not None and name != "imagenet")


def imagenet_weights(cache_dir: str | Path | None = None) -> Path:
    """Return the file of the published weights in the cache; download it if it does not exist.

    Raises:
        InputError: if the download fails or has another checksum.
    """
    file = cache_root(cache_dir) / "extractors" / IMAGENET_FILE
    if file.is_file():
        return file
    try:
        write_atomically(file, _download)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise InputError(
            f"the weights of extractor 'imagenet' could not be downloaded from {IMAGENET_URL} ({reason}); "
            f"download them on another machine to {file}, pass the file as the extractor's weights, or set extractor to "
            "renders_color"
        ) from error
    return file


def _download(file: Path) -> None:
    with urllib.request.urlopen(IMAGENET_URL, timeout=30) as source, file.open("wb") as target:
        size = int(source.headers.get("Content-Length") or 0) or None
        with Progress(size, f"downloading {IMAGENET_FILE}", "byte") as bar:
            while part := source.read(1 << 20):
                target.write(part)
                bar.update(len(part))
    if (checksum := _sha256(file)) != IMAGENET_SHA256:
        raise InputError(
            f"the download of {IMAGENET_URL} has SHA-256 {checksum[:16]}… instead of {IMAGENET_SHA256[:16]}…: it is "
            "incomplete or was modified; run the command again"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remedy(name: str) -> str:
    """How to get the weights."""
    if name in TRAIN_COMMANDS:
        return f"create them with: {TRAIN_COMMANDS[name]}"
    return f"download them from {IMAGENET_URL}"


@lru_cache(maxsize=4)
def _load(name: str, file: Path, custom: bool) -> FeatureExtractor:
    checksum = _sha256(file)
    if name == "imagenet" and checksum != IMAGENET_SHA256:
        raise InputError(
            f"{file} has SHA-256 {checksum[:16]}… instead of {IMAGENET_SHA256[:16]}…; remove it and {_remedy(name)}"
        )
    try:
        state = load_state(file)
    except InputError as error:
        raise InputError(f"{error}; {_remedy(name)}") from error
    try:
        if name == "imagenet":
            network: RenderClassifier | InceptionV3 = InceptionV3([str(i) for i in range(1008)], channels=3)
        else:
            network = _build_network(
                name, state["classes"], state["sizes"], sum(w.numel() for w in state["weights"].values())
            )
            state = state["weights"]
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except Exception as error:  # a corrupt or foreign file can cause any error
        raise InputError(f"{file} does not hold the weights of extractor {name!r}; {_remedy(name)}") from error
    if not all(bool(weight.isfinite().all()) for weight in network.state_dict().values()):
        raise InputError(f"{file} has weights that are not finite; {_remedy(name)}")
    return FeatureExtractor(name, network, checksum[:16], f"{name} ({checksum[:8]})" if custom else name)


def _build_network(
    name: str, classes: list[str], sizes: dict[str, int], weights: int
) -> RenderClassifier | InceptionV3:
    """Build the network that a file describes, after checking that its size matches the file's weights."""
    with torch.device("meta"):
        described = NETWORKS[name](classes, **sizes)
    if sum(w.numel() for w in described.state_dict().values()) != weights:
        raise ValueError("the weights do not match the sizes")
    return NETWORKS[name](classes, **sizes)
