"""Which device OpenGL renders on: the GPU of this process's rank, as CUDA numbers them."""

import os
from types import SimpleNamespace

import pytest

from renderers import InputError
from renderers.opengl.egl import EglDevice, choose_device, cuda_card


def choose_among(monkeypatch, devices: list[EglDevice], card: tuple | None = None, **environment: str) -> int | None:
    monkeypatch.setattr("os.environ", dict(environment))
    monkeypatch.setattr("renderers.opengl.egl.egl_devices", lambda: devices)
    monkeypatch.setattr("renderers.opengl.egl.cuda_card", lambda: card)
    index = choose_device.__wrapped__()
    assert os.environ.get("EGL_DEVICE_ID") == (None if index is None else str(index))  # pyrender reads it
    return index


def test_device_choice_without_cuda(monkeypatch):
    # CUDA's devices 0 and 1 are EGL's 4 and 0.
    devices = [EglDevice(0, 1), EglDevice(4, 0)]
    assert choose_among(monkeypatch, []) is None
    assert choose_among(monkeypatch, [], LOCAL_RANK="3") is None  # no NVIDIA device: the default one
    assert choose_among(monkeypatch, devices) is None
    assert choose_among(monkeypatch, devices, LOCAL_RANK="3") == 0
    assert choose_among(monkeypatch, devices, EGL_DEVICE_ID="2", LOCAL_RANK="3") == 2
    with pytest.raises(InputError, match="EGL_DEVICE_ID must be the index of a device, got 'cuda:0'"):
        choose_among(monkeypatch, devices, EGL_DEVICE_ID="cuda:0")


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        ({"SLURM_LOCALID": "0"}, 2),
        ({"SLURM_LOCALID": "1"}, 3),
        ({"SLURM_LOCALID": "5"}, 3),  # more ranks than devices share them
        ({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 3),  # torchrun inside a job: LOCAL_RANK wins
        ({"SLURM_LOCALID": ""}, None),
    ],
)
def test_ranks_without_cuda_use_devices_in_cudas_order(monkeypatch, environment, index):
    # CUDA's devices 0 and 1 are EGL's 2 and 3; EGL's 0 and 1 are not NVIDIA devices.
    assert choose_among(monkeypatch, [EglDevice(3, 1), EglDevice(2, 0)], **environment) == index


def test_opengl_uses_the_card_of_cuda(monkeypatch):
    # EGL's order is the reverse of CUDA's, and the driver numbers all cards.
    uuids = ["aa", "bb", "cc", "dd"]
    devices = [EglDevice(i, 3 - i, uuids[3 - i], f"0000:0{3 - i}:00.0") for i in range(4)]
    visible = {"CUDA_VISIBLE_DEVICES": "3"}
    assert choose_among(monkeypatch, devices, (0, "dd", ""), **visible) == 0  # CUDA calls the only visible card 0
    assert choose_among(monkeypatch, devices, (0, "", "0000:03:00.0"), **visible) == 0
    assert choose_among(monkeypatch, devices, (2, "cc", "0000:02:00.0")) == 1
    assert choose_among(monkeypatch, [EglDevice(5, 1), EglDevice(6, 0)], (1, "cc", "")) == 5  # an old driver
    with pytest.raises(InputError, match=r"is known to be CUDA device 0 .*set EGL_DEVICE_ID"):
        choose_among(monkeypatch, [EglDevice(5, 1), EglDevice(6, 0)], (0, "cc", ""), **visible)


def test_the_card_of_a_process_is_described_by_uuid_and_pci_address(monkeypatch):
    card = SimpleNamespace(
        uuid="3C1E2F00-aaaa-bbbb-cccc-000000000001", pci_domain_id=0, pci_bus_id=101, pci_device_id=0
    )
    uuid = "3c1e2f00aaaabbbbcccc000000000001"
    for name, value in {"is_available": True, "is_initialized": True, "current_device": 1, "device_count": 2}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: card)
    assert cuda_card() == (1, uuid, "0000:65:00.0")
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "2")  # two cards: the third rank shares the first
    assert cuda_card() == (0, uuid, "0000:65:00.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cuda_card() is None
