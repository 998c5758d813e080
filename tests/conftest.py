"""Every test runs with shapes and types checked, on one thread per process, with its own caches."""

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
    """Put caches into a directory of this test session, never into the user's."""
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
    """Disable type checks, as outside the tests, to pass values that annotations forbid."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that parallel workers finish together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
