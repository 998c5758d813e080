"""torch.compile: every module trains as without it, with losses in float32 and the same checkpoint keys."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_iggan import iggan

from callbacks import CompileNetworks
from callbacks.torch_compile import check_backend
from renderers import InputError
from trainer.cli.config_composition import compose

SCRIPT = Path(__file__).parents[1] / "helpers" / "compiled_training.py"
NAMES = ("iggan", "voxel", "image", "mesh", "proxy", "classifier", "rank 0", "rank 1")


def train(folder: Path, backend: str, precision: str, *names: str) -> dict:
    """Run the script and return what it wrote."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels")}
    command = [sys.executable, str(SCRIPT), str(folder), backend, precision, *names]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    """Results with aot_eager, which traces and differentiates but does not generate kernels."""
    return train(tmp_path_factory.mktemp("compiled"), "aot_eager", "bf16-mixed")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compiled_networks_train_like_eager_ones(runs, name):
    plain, compiled = runs[name]["None"], runs[name]["aot_eager"]
    assert_alike(plain, compiled)
    assert plain["compiled"] == []
    if name == "mesh":  # R1 needs second derivatives, which torch.compile does not support
        assert all(key.startswith("generator.") for key in compiled["compiled"])
    else:
        assert {"generator", "discriminator"} & set(plain["names"]) <= set(compiled["compiled"])


@pytest.mark.slow
def test_compiled_ranks_agree(runs):
    assert runs["rank 0"]["aot_eager"]["losses"] == runs["rank 1"]["aot_eager"]["losses"]


def assert_alike(plain: dict, compiled: dict) -> None:
    assert compiled["compiled"] and compiled["names"] == plain["names"]
    assert compiled["types"] == ["torch.float32"]
    for one, other in zip(compiled["losses"], plain["losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_inductor_kernels_train_the_classifier(tmp_path):
    results = train(tmp_path, "inductor", "32", "classifier")["classifier"]
    assert_alike(results["None"], results["inductor"])


def test_config_appends_the_callback():
    callbacks = compose(["demo.yaml", "speed/compiled.yaml"]).values["trainer"]["callbacks"]
    plain = compose(["demo.yaml"]).values["trainer"]["callbacks"]
    assert callbacks == [*plain, {"class_path": "callbacks.CompileNetworks"}]


def test_unusable_backends_are_rejected(monkeypatch):
    with pytest.raises(InputError, match="no backend 'fast'"):
        CompileNetworks("fast")

    def broken(*_, **__):
        raise RuntimeError("\nno compiler found\nhere")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        InputError, match=r"inductor does not work here \(no compiler found\); it needs a C\+\+ compiler"
    ):
        check_backend("inductor", torch.device("cpu"))


def test_a_discriminator_with_r1_is_not_compiled():
    """``torch.compile`` does not support the second derivatives of R1."""
    module = iggan()
    assert any(network is module.discriminator for network in module.compilable())
    module = iggan(r1_gamma=1.0)
    assert all(network is not module.discriminator for network in module.compilable())
