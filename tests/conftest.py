"""Every test runs with shapes and types checked, on one thread a process, with caches of its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
from jaxtyping import install_import_hook

PACKAGES = [
    "callbacks",
    "datamodules",
    "lightning_modules",
    "metrics",
    "networks",
    "renderers",
    "utils",
    "visualization",
]
install_import_hook(PACKAGES, "typecheck.check")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Caches go to a folder of this test session, never to the user's; of the session, as fixtures of modules fill them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNRENDER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def needs_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def unchecked():
    """Types unchecked, as outside the tests: for what a user may type that no annotation allows."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
