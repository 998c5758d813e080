"""Two ranks train like one: equal losses and weights up to rounding; the two ranks are equal bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

pytestmark = pytest.mark.slow
HELPERS = Path(__file__).parents[1] / "helpers"
MODULES = ("iggan", "voxel", "image", "image, ada", "mesh", "proxy", "classifier")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[dict]:
    """Return the results of a single rank and of both of two ranks, for every module."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "UNRENDER_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, str(HELPERS / "two_ranks.py"), str(folder)]
    started = [
        subprocess.Popen([*command, str(rank), str(ranks)], env=environment, stderr=subprocess.PIPE, text=True)
        for ranks in (1, 2)
        for rank in range(ranks)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(errors)
    assert not (folder / "refused.ckpt").exists()
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")]


@pytest.mark.parametrize("name", MODULES)
def test_ranks_are_bit_identical(runs, name):
    first, second = (run[name] for run in runs[1:])
    assert first["state"].keys() == second["state"].keys()
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["losses"] == second["losses"] and first["figures"] == second["figures"]


@pytest.mark.parametrize("name", MODULES)
def test_two_ranks_train_like_one(runs, name):
    alone, shared = runs[0][name], runs[1][name]
    assert len(alone["losses"]) == len(shared["losses"]) == 20
    for step, (one, two) in enumerate(zip(alone["losses"], shared["losses"], strict=True)):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=5e-4, abs=1e-5), (step, key)
    for key, value in alone["state"].items():
        assert torch.allclose(value, shared["state"][key], rtol=1e-4, atol=2e-5), key
    for key, value in alone["figures"].items():
        assert shared["figures"][key] == pytest.approx(value, rel=1e-3), key


def test_checkpoint_of_differing_ranks_names_the_value(runs):
    for run in runs[1:]:
        assert "discriminator.layers.2.parametrizations.weight.0._u differs on rank 1 from rank 0" in run["refusal"]


@pytest.mark.parametrize("name", MODULES)
def test_ranks_all_reduce_the_computed_bytes(runs, name):
    """Plus some logged numbers; for MeshGAN minus the image layers of lower resolutions."""
    assert runs[0][name]["reduced"] == 0
    sent, computed = runs[1][name]["reduced"], runs[1][name]["computed"]
    assert 0 < sent - computed < 64 if name != "mesh" else 0.95 * computed < sent < computed
