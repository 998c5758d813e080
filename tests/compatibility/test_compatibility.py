"""Runs, checkpoints and render caches that earlier versions wrote still work."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from callbacks.metrics_log import read_metrics
from lightning_modules import MeshGANModule
from lightning_modules.base import seeded_generator
from trainer.__main__ import main
from utils.legacy_names import update_state_dict

STORED = Path(__file__).parent / "v0.1.0"
RUNS = ["iggan", "heads"]
pytestmark = pytest.mark.slow


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A copy of the stored render caches, which the command line uses."""
    shutil.copytree(STORED / "cache", tmp_path / "cache")
    monkeypatch.setenv("UNRENDER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copied(tmp_path):
    """Copies a stored run directory, which a test may then change."""
    return lambda name: Path(shutil.copytree(STORED / name, tmp_path / "runs" / name))


# The first biases of StyleGAN's synthesis are added to a constant and removed by the instance norm that follows: their
# gradient is a rounding error, which differs between processors, and Adam without momentum makes a full step of it.
ZERO_GRADIENT = "synthesis.layers.0.bias"


def renders(cache: Path) -> dict[str, bytes]:
    return {str(p.relative_to(cache)): p.read_bytes() for p in cache.glob("*/*/*.npy")}


@pytest.fixture
def old_streams(monkeypatch):
    """The random numbers of MeshGAN's training in version 0.1.0, which were sampled for all ranks."""

    def latents(module, n, purpose="latents"):
        return torch.randn(n, module.latent_size, generator=module.random(purpose))

    def noise(module, samples, *key):
        return module.generator.object.sample_noise(len(samples), 2 * module.stage.resolution, seeded_generator(*key))

    monkeypatch.setattr(MeshGANModule, "training_latents", latents)
    monkeypatch.setattr(MeshGANModule, "layer_noise", noise)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_to_the_weights_it_would_have_reached(name, caches, copied, old_streams):
    """With the old random numbers: everything else that a step depends on is restored."""
    run, before = copied(name), renders(caches)
    start = update_state_dict(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert main(["fit", "--run_dir", str(run)]) == 0
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    notes = {line["note"] for line in read_metrics(run)}
    assert not any("pictures" in note for note in notes)  # evaluations of both versions are comparable
    assert renders(caches) == before  # found under their keys, not rendered again
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    expected = update_state_dict(torch.load(STORED / name / "expected_weights.pt", weights_only=True))
    for key, value in expected.items():
        if not key.endswith(ZERO_GRADIENT):
            torch.testing.assert_close(state[key], value, atol=1e-4, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
    error, way = (
        sum((x[key] - value).double().square().sum() for key, value in expected.items()) for x in (state, start)
    )
    assert (error / way).sqrt() < {"iggan": 1e-3, "heads": 0.15}[name]


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_validates_and_exports(name, caches, copied):
    run = copied(name)
    assert main(["validate", "--run_dir", str(run)]) == 0
    assert "fid" in json.loads((run / "validate/metrics.jsonl").read_text())
    assert main(["export", "--run_dir", str(run), "--seeds", "0", "--formats", "glb"]) == 0
    assert len(list(run.rglob("export/**/*.glb"))) == 1


def test_an_old_colour_run_may_change_to_an_extractor_that_sees_colour(caches, copied, capsys):
    run = copied("heads")
    assert main(["validate", "--run_dir", str(run), "--model.extractor=renders_small"]) == 2  # on the command line
    assert "extractor 'renders_small' does not see" in capsys.readouterr().err
    for command in ("validate", "fit"):
        assert main([command, "--run_dir", str(run), "--model.extractor=renders_color"]) == 0
    assert "resumes with model.init_args.extractor renders_color (was renders_small)" in capsys.readouterr().out
    notes = [line["note"] for line in read_metrics(run)]
    assert "renders_small" in notes[0] and "renders_color" in notes[-1]
