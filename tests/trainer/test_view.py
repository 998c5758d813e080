"""The server of ``view``, without a browser."""

import http.client
import io
import json
import signal
import socket
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
import small_iggan
import torch
import trimesh
from PIL import Image
from view_run import MESHGAN, meshgan, viewing, write_run

from trainer.__main__ import main
from trainer.runs.loading import load_generator
from trainer.viewer.handlers import RunViewer
from trainer.viewer.params import QueryParameters
from trainer.viewer.server import FILES, PAGE
from utils.errors import InputError


@pytest.fixture(scope="module")
def voxel_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "voxels" / "001", small_iggan.iggan(), small_iggan.CONFIG)


@pytest.fixture(scope="module")
def mesh_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "meshes" / "001", meshgan(), MESHGAN)


def request(url: str, path: str, parameters: dict | None = None, method: str = "GET", headers: dict | None = None):
    """Send a request; return status, headers and content of the response."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    try:
        connection.request(method, path + (f"?{urlencode(parameters)}" if parameters else ""), headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def load_surface(content: bytes) -> trimesh.Trimesh:
    return trimesh.load(io.BytesIO(content), file_type="glb", force="mesh")


@pytest.mark.slow
def test_server_answers_valid_requests_and_rejects_others(voxel_run, environment):
    with viewing(voxel_run, environment) as (url, process):
        assert url.startswith("http://127.0.0.1:")
        for path, (name, kind) in FILES.items():
            status, headers, content = request(url, path)
            assert (status, content) == (200, (PAGE / name).read_bytes()) and headers["Content-Type"] == kind
            assert "default-src 'none'" in headers["Content-Security-Policy"]
        about = json.loads(request(url, "/about.json")[2])
        assert (about["name"], about["shape"], about["threshold"]) == ("voxels 001", "voxels", 0.5)

        status, headers, content = request(url, "/shape.glb", {"a": 2, "threshold": 0.4})
        assert (status, headers["Content-Type"]) == (200, "model/gltf-binary") and content[:4] == b"glTF"
        status, _, content = request(url, "/image.png", {"a": 2, "azimuth": -30.5, "elevation": 20, "size": 48})
        assert status == 200 and Image.open(io.BytesIO(content)).size == (48, 48)

        for path, parameters, message in (
            ("/shape.glb", {"a": -1}, "a must be an integer"),
            ("/shape.glb", {"mix": "nan"}, "mix must be a number from 0 to 1"),
            ("/shape.glb", {"path": "/etc/passwd"}, "unknown parameter 'path'"),
            ("/image.png", {"renderer": "../x"}, "renderer must be one of"),
            ("/image.png", {"size": 10**6}, "size must be"),
            ("/image.png", {"kind": "texture"}, "no texture"),
            ("/image.png", {"renderer": "absorption", "kind": "normals"}, "has no normals"),
            ("/about.json", {f"p{i}": 1 for i in range(40)}, "more than 32"),
        ):
            status, _, content = request(url, path, parameters)
            assert status == 400 and message in content.decode(), (path, parameters, content)

        for path in ("/view.js/", "/../view.css", "/%2e%2e/server.py", "/server.py", "//etc/passwd"):
            assert request(url, path)[0] == 404, path
        assert request(url, "/about.json", headers={"Host": "evil.example"})[0] == 403
        assert request(url, "/about.json", headers={"Host": "127.0.0.1.evil.example:80"})[0] == 403
        assert request(url, "/about.json", headers={"Host": "LocalHost:9"})[0] == 200  # as with ssh -L 9:…
        assert request(url, "/about.json", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
        assert request(url, "/about.json", {"a": "x" * 3000})[0] == 414
        assert request(url, "/about.json", headers={"Content-Length": "5"})[0] == 413
        assert request(url, "/about.json", method="POST")[0] == 501
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
            connection.sendall(b"GET /shape.glb HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and disconnect

        port = url.rpartition(":")[2]
        assert main(["view", "--run_dir", str(voxel_run), "--port", port]) == 2

        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


def test_voxels_depend_on_sample_mix_truncation_and_threshold(voxel_run):
    run = load_generator(voxel_run)
    viewer = RunViewer(run)

    def occupancy(**parameters) -> np.ndarray:
        selection, _ = viewer._selection(QueryParameters({name: str(value) for name, value in parameters.items()}))
        return viewer._shape(selection).scene.occupancy[0, 0].numpy()

    expected = run.module.predict_step(torch.tensor([2, 5]), 0)["occupancy"][:, 0].numpy()
    for shape, parameters in zip(expected, ({"a": 2}, {"a": 2, "b": 5, "mix": 1}), strict=True):
        np.testing.assert_allclose(occupancy(**parameters), shape, atol=1e-6)
    between = occupancy(a=2, b=5, mix=0.5)
    assert (between != expected[0]).any() and (between != expected[1]).any()
    assert (occupancy(a=2, seed=9) != expected[0]).any()
    np.testing.assert_allclose(occupancy(a=2), expected[0], atol=1e-6)  # a seed applies to one request only
    assert np.allclose(occupancy(a=2, truncation=0), occupancy(a=5, truncation=0))

    levels = np.quantile(expected[0], (0.3, 0.9))
    volumes = [load_surface(viewer.shape({"a": "2", "threshold": str(level)})).volume for level in levels]
    assert volumes[0] > volumes[1] > 0
    assert len(viewer.shape({"a": "2", "threshold": "1"})) < 100  # which the page recognizes as empty

    front, side = (viewer.image({"a": "2", "threshold": str(levels[1]), "azimuth": x}) for x in ("0", "90"))
    assert front != side
    for name, choice in viewer.renderers.items():
        assert viewer.image({"renderer": name, "kind": "normals" if choice.has_normals else "image", "size": "32"})


def test_meshes_have_texture_and_background(mesh_run):
    viewer = RunViewer(load_generator(mesh_run))
    about = json.loads(viewer.about({}))
    assert (about["shape"], about["threshold"], about["truncation"]) == ("mesh", None, 0.7)
    textured, plain = viewer.shape({"a": "1"}), viewer.shape({"a": "1", "texture": "off"})
    assert b"KHR_materials_unlit" in textured and b"KHR_materials_unlit" not in plain
    assert load_surface(textured).bounds == pytest.approx(load_surface(plain).bounds, abs=1e-6)
    for kind in ("texture", "background"):
        assert Image.open(io.BytesIO(viewer.image({"kind": kind}))).size == (16, 16)
    images = {viewer.image({"renderer": name, "size": "32"}) for name in viewer.renderers}
    assert len(images) == len(viewer.renderers)
    assert viewer.image({"background": "generated"}) != viewer.image({})
    with pytest.raises(InputError, match="unknown parameter 'threshold'"):
        viewer.shape({"threshold": "0.5"})


def test_invalid_addresses_ports_and_runs_are_rejected(refused, voxel_run):
    assert "is not a valid address" in refused("view", "--run_dir", str(voxel_run), "--host", "nowhere.invalid")
    assert "is not an address of this machine" in refused("view", "--run_dir", str(voxel_run), "--host", "192.0.2.1")
    assert "is not an integer from 0 to 65535" in refused("view", "--run_dir", str(voxel_run), "--port", "65536")
    assert "is not a run directory" in refused("view", "--run_dir", "nothing", "--port", "0")
