"""A toy experiment in a temporary directory, and fixtures that run the command line on it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.__main__ import main

ROOT = Path(__file__).parents[2]
HELPERS = ROOT / "tests" / "helpers"

FILES = {
    "toy.yaml": """
seed_everything: 3
model: model/gan.yaml
data: data/numbers.yaml
trainer: trainer/short.yaml
""",
    "model/gan.yaml": """
class_path: toy.ToyGAN
init_args:
  image_size: ${data.init_args.size}
  seed: ${seed_everything}
  cameras: ${data.init_args.cameras}
  optimizer_g: {class_path: torch.optim.Adam, init_args: {lr: 2e-4, betas: [0.5, 0.999]}}
  renderer: {class_path: toy.Blur, init_args: {width: 5}}
""",
    "data/numbers.yaml": """
class_path: toy.ToyData
init_args: {size: 8, batches: 4, cameras: {azimuth: [0, 90]}}
""",
    "trainer/short.yaml": """
max_epochs: 1
accelerator: cpu
devices: 1
use_distributed_sampler: false
num_sanity_val_steps: -1
log_every_n_steps: 1
enable_progress_bar: false
callbacks: [{class_path: toy.WriteShapes}]
""",
}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the experiment ``toy.yaml`` and its parts."""
    monkeypatch.syspath_prepend(str(HELPERS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["trainer"])
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment for a command line in a separate process."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a command line that must fail with one sentence on stderr and status 2; returns the sentence."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert len(err) < 400
        return err.removeprefix("error: ").strip()

    return run
