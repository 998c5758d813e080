"""The choice of a renderer's backend, and launches of Triton kernels."""

import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from renderers import InputError
from renderers.backend_dispatch import choose_backend
from renderers.triton_launch import launch, triton_problem, warn_without_triton
from renderers.volume.renderer import BACKENDS


def scene(dtype: torch.dtype = torch.float32, device: str = "cuda:1") -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


@pytest.fixture
def broken(monkeypatch, unchecked):
    """Triton is installed, but there is no C compiler."""
    problem = "RuntimeError: Failed to find C compiler"
    monkeypatch.setattr("renderers.backend_dispatch.triton_problem", lambda device: problem)
    warn_without_triton.cache_clear()


def test_auto_uses_the_reference_with_one_warning_if_triton_does_not_work(broken, caplog):
    for _ in range(3):
        assert choose_backend("auto", BACKENDS, scene()).__name__ == "renderers.volume.reference"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Triton does not work on cuda:1 (RuntimeError: Failed to find C compiler)" in record.getMessage()


def test_triton_by_name_is_an_error_if_it_does_not_work(broken):
    with pytest.raises(InputError, match=r"backend 'triton' does not work on cuda:1 .*C compiler"):
        choose_backend("triton", BACKENDS, scene())


def test_auto_uses_triton_where_it_works(monkeypatch, unchecked):
    pytest.importorskip("triton")
    asked = []
    monkeypatch.setattr("renderers.backend_dispatch.triton_problem", asked.append)
    assert choose_backend("auto", BACKENDS, scene()).__name__ == "renderers.volume.triton_backend"
    assert choose_backend("auto", BACKENDS, scene(torch.float64)).__name__ == "renderers.volume.reference"
    assert choose_backend("auto", BACKENDS, scene(device="cpu")).__name__ == "renderers.volume.numba_backend"
    assert asked == [torch.device("cuda:1")]


def test_a_kernel_that_fails_is_a_problem_and_not_an_exception(monkeypatch):
    triton_problem.cache_clear()
    monkeypatch.setattr("renderers.triton_launch.find_spec", lambda name: None)
    assert triton_problem(torch.device("cpu")) == "Triton is not installed"
    triton_problem.cache_clear()
    monkeypatch.setattr("renderers.triton_launch.find_spec", lambda name: object())

    def fail(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr("renderers.triton_launch.launch", fail)
    pytest.importorskip("triton")
    assert triton_problem(torch.device("cpu")) == "RuntimeError: Failed to find C compiler."
    triton_problem.cache_clear()


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    events = []

    @contextmanager
    def device_of(tensor):
        events.append(("enter", tensor))
        yield
        events.append(("exit", tensor))

    monkeypatch.setattr("torch.cuda.device_of", device_of)
    kernel = {(3,): lambda *args, **constants: events.append(("launch", args, constants))}
    x = torch.zeros(1)
    launch(kernel, (3,), x, 5, BLOCK=8)
    assert events == [("enter", x), ("launch", (x, 5), {"BLOCK": 8}), ("exit", x)]
