import hashlib
import http.server
import threading

import pytest
import torch

from metrics import ImageFID, extractors, load_extractor
from networks import InceptionV3
from renderers import InputError


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file like the published weights, in torch's legacy format, with random values."""
    torch.manual_seed(0)
    state = InceptionV3([str(i) for i in range(1008)], channels=3).state_dict()
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file


@pytest.fixture
def trusted(published, monkeypatch):
    """The same file, with its checksum in place of the published one."""
    monkeypatch.setattr(extractors, "IMAGENET_SHA256", hashlib.sha256(published.read_bytes()).hexdigest())
    extractors._load.cache_clear()
    yield published
    extractors._load.cache_clear()


@pytest.fixture
def server(trusted, monkeypatch):
    """Serves the file's directory and records the requests."""

    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=trusted.parent)

        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setattr(extractors, "IMAGENET_URL", f"http://127.0.0.1:{served.server_port}/{trusted.name}")
        yield requests
        served.shutdown()


def save_weights(path, network, **more):
    state = {"classes": network.classes, "sizes": network.sizes, "weights": network.state_dict(), **more}
    torch.save(state, path)
    return path


def test_published_file_name_contains_the_checksum():
    assert extractors.IMAGENET_FILE.endswith(f"-{extractors.IMAGENET_SHA256[:8]}.pth")
    assert len(extractors.IMAGENET_SHA256) == 64


def test_imagenet_features_do_not_depend_on_the_batch(trusted):
    extractor = load_extractor("imagenet", trusted)
    assert extractor.num_features == 2048 and extractor.label == "imagenet"
    extractor.network.image_size = 75  # for speed
    images = torch.randint(0, 256, (5, 1, 40, 40), dtype=torch.uint8)
    together = extractor(images)
    assert together.dtype == torch.float64
    assert torch.allclose(torch.cat([extractor(p[None]) for p in images]), together, rtol=1e-12, atol=1e-12)
    assert torch.allclose(extractor(images.repeat(1, 3, 1, 1)), together, rtol=1e-12, atol=1e-12)
    fid = ImageFID(extractor)
    fid.update(images, real=True)
    fid.update(images.flip(0), real=False)
    assert abs(fid.compute()) < 1e-4
    assert fid.describe(5, 5) == "extractor imagenet, 5 generated against 5 real images"


def test_imagenet_weights_are_downloaded_once(server, tmp_path):
    first = extractors.imagenet_weights(tmp_path)
    assert first == tmp_path / "extractors" / extractors.IMAGENET_FILE
    assert extractors.imagenet_weights(tmp_path) == first
    assert len(server) == 1
    assert load_extractor("imagenet", cache_dir=tmp_path).name == "imagenet"


def test_download_with_a_wrong_checksum_is_removed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "IMAGENET_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"the download of .* has SHA-256 .* instead of 0000000000000000…"):
        load_extractor("imagenet", cache_dir=tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_failed_download_reports_where_to_put_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(extractors, "IMAGENET_URL", extractors.IMAGENET_URL + "x")
    with pytest.raises(
        InputError, match=r"could not be downloaded from http.*\(File not found\); download them .* to .*6726825d"
    ):
        load_extractor("imagenet", cache_dir=tmp_path)
    monkeypatch.setattr(extractors, "IMAGENET_URL", "http://127.0.0.1:9/x")
    with pytest.raises(InputError, match="could not be downloaded"):
        load_extractor("imagenet", cache_dir=tmp_path)


def test_rejects_a_file_with_another_checksum(published):
    with pytest.raises(
        InputError, match=r"inception.pth has SHA-256 .*…; remove it and download them from https://github"
    ):
        load_extractor("imagenet", published)


def test_missing_imagenet_weights(tmp_path):
    with pytest.raises(InputError, match=r"do not exist at .*gone.pth; download them from https://github"):
        load_extractor("imagenet", tmp_path / "gone.pth")


def test_renders_requires_a_weights_file(tmp_path):
    with pytest.raises(InputError, match=r"'renders' requires a weights file; create one with: python -m trainer fit"):
        load_extractor("renders")
    network = InceptionV3(["chair", "table"], image_size=75)
    extractor = load_extractor("renders", save_weights(tmp_path / "mine.pt", network))
    assert extractor.network.classes == ["chair", "table"] and extractor.network.image_size == 75
    assert extractor.label == f"renders ({extractor.checksum[:8]})"
    assert extractor(torch.zeros(1, 3, 20, 20, dtype=torch.uint8)).shape == (1, 2048)
    with pytest.raises(InputError, match=r"mine.pt does not hold the weights of extractor 'renders_small'"):
        load_extractor("renders_small", tmp_path / "mine.pt")


def test_rejects_weights_that_are_not_finite(tmp_path):
    """FID of NaN features ended the process in the eigenvalues of torchmetrics."""
    network = InceptionV3(["chair", "table"], image_size=75)
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(InputError, match=r"mine.pt has weights that are not finite; create them with: "):
        load_extractor("renders", save_weights(tmp_path / "mine.pt", network))


def test_rejects_weights_that_could_run_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("trapped",)

    torch.save({"classes": Trap(), "sizes": {}, "weights": {}}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="could run code"):
        load_extractor("renders", tmp_path / "trap.pt")
