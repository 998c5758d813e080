"""Process-wide setup of both OpenGL backends: EGL device, log line, fork check, check of limits."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from utils.errors import InputError

log = logging.getLogger(__name__)

NO_OPENGL = (
    "OpenGL does not work on this machine ({reason}). On Debian or Ubuntu run "
    "apt-get install -y libegl1 libgl1-mesa-dri; elsewhere install a driver with EGL"
)
EGL_EXTENSIONS, EGL_CUDA_DEVICE_NV = 0x3055, 0x323A
EGL_DRM_DEVICE_FILE_EXT, EGL_DEVICE_UUID_EXT = 0x3233, 0x335C


def no_opengl(error: Exception) -> InputError:
    """Return the error to raise if a library could not create a context."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(NO_OPENGL.format(reason=reason))


def check_limit(name: str, value: int, limit: int) -> None:
    """Check that a size is within a limit of the driver or of a shader. Drivers render black beyond some of their limits.

    Raises:
        InputError: It is not.
    """
    if value > limit:
        raise InputError(f"{name} must be at most {limit:,} for OpenGL on this machine, got {value:,}")


def refuse_fork(pid: int) -> None:
    """Raise RuntimeError if this process is a fork of ``pid``, which created the OpenGL context."""
    if pid != os.getpid():
        raise RuntimeError(
            "this process was forked after OpenGL was first used, and OpenGL would hang in it; start workers before "
            "rendering the first image, or with multiprocessing_context='spawn'"
        )


@lru_cache(maxsize=8)
def log_renderer(backend: str, name: str) -> None:
    """Log the driver once per process, since EGL silently falls back to software rendering."""
    log.info("OpenGL (%s) renders with %s", backend, name)


@dataclass(frozen=True)
class EglDevice:
    """An EGL device of NVIDIA's driver.

    Args:
        index: its index among all EGL devices.
        cuda: CUDA's index of it, in the order that the driver reports.
        uuid: the card's UUID in lower-case hexadecimal digits, or "" if the driver does not report it.
        pci: the card's address on the PCI bus, such as ``0000:65:00.0``, or "" if unknown.
    """

    index: int
    cuda: int
    uuid: str = ""
    pci: str = ""


@lru_cache(maxsize=1)
def choose_device() -> int | None:
    """Return the index of the EGL device for this process, or None for the default device.

    ``EGL_DEVICE_ID`` takes precedence. Otherwise it is the card that this process uses with CUDA, found by its UUID or PCI
    address, because EGL numbers cards in another order and ignores ``CUDA_VISIBLE_DEVICES``. Without CUDA, ranks
    (``LOCAL_RANK`` of torchrun and Lightning, ``SLURM_LOCALID`` of srun) are assigned to the NVIDIA devices in turn. The
    choice is written to ``EGL_DEVICE_ID``, which pyrender reads. Without NVIDIA's EGL the default device is used.

    Raises:
        InputError: if ``EGL_DEVICE_ID`` is not a non-negative integer; if no EGL device is this process's CUDA device.
    """
    _load_triton()
    chosen = os.environ.get("EGL_DEVICE_ID")
    if chosen is not None:
        if not chosen.isdecimal():
            raise InputError(f"EGL_DEVICE_ID must be the index of a device, got {chosen!r}")
        return int(chosen)
    devices = egl_devices()
    if not devices:
        return None
    card = cuda_card()
    if card is None:
        rank = local_rank()
        if rank is None:
            return None
        index = sorted(devices, key=lambda device: device.cuda)[rank % len(devices)].index
    else:
        index = _find_card(devices, *card)
    os.environ["EGL_DEVICE_ID"] = str(index)
    return index


def _load_triton() -> None:
    """Load Triton, if it is installed, before the OpenGL driver.

    Both contain LLVM. If Mesa's software renderer has loaded its own, loading Triton ends the process with a segmentation
    fault, and torch loads Triton with the first optimizer.
    """
    with suppress(ImportError):
        import triton  # noqa: F401


def local_rank() -> int | None:
    """Return the rank of this process on its machine, or None outside of distributed training."""
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    return int(rank) if rank is not None and rank.isdecimal() else None


def cuda_card() -> tuple[int, str, str] | None:
    """Return the CUDA index, UUID and PCI address of the card that this process uses; None without CUDA.

    That is torch's current device or, before torch has used CUDA, the device of this rank.
    """
    if not torch.cuda.is_available():
        return None
    index = torch.cuda.current_device() if torch.cuda.is_initialized() else (local_rank() or 0)
    index %= torch.cuda.device_count()
    card = torch.cuda.get_device_properties(index)
    uuid = str(getattr(card, "uuid", "")).removeprefix("GPU-").replace("-", "").lower()
    pci: list[Any] = [getattr(card, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    return index, uuid, "" if None in pci else "{:04x}:{:02x}:{:02x}.0".format(*pci)


def _find_card(devices: list[EglDevice], cuda: int, uuid: str, pci: str) -> int:
    """Return the EGL index of a card: by UUID, else by PCI address, else by CUDA's index if all cards are visible."""
    same = [d for d in devices if d.uuid and d.uuid == uuid] or [d for d in devices if d.pci and d.pci == pci]
    if not same and "CUDA_VISIBLE_DEVICES" not in os.environ:
        same = [d for d in devices if d.cuda == cuda]
    if not same:
        raise InputError(
            f"none of EGL's {len(devices)} NVIDIA devices is known to be CUDA device {cuda} (UUID {uuid or 'unknown'}, "
            f"PCI {pci or 'unknown'}); set EGL_DEVICE_ID to the index of the device that OpenGL shall use"
        )
    return same[0].index


def egl_devices() -> list[EglDevice]:
    """Return the EGL devices of NVIDIA's driver; an empty list without it."""
    try:
        egl = ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1")
        address = egl.eglGetProcAddress
    except (OSError, AttributeError):
        return []
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    names = (b"eglQueryDevicesEXT", b"eglQueryDeviceStringEXT", b"eglQueryDeviceAttribEXT", b"eglQueryDeviceBinaryEXT")
    *pointers, binary_pointer = [address(name) for name in names]
    if not all(pointers):
        return []
    device_list, int_pointer = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, device_list, int_pointer)(pointers[0])
    text = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(pointers[1])
    attribute = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(
        pointers[2]
    )
    found, device_count = (ctypes.c_void_p * 64)(), ctypes.c_int(0)
    if not query(64, found, ctypes.byref(device_count)):
        return []
    devices = []
    for index in range(device_count.value):
        cuda = ctypes.c_ssize_t(-1)
        extensions = (text(found[index], EGL_EXTENSIONS) or b"").split()
        if b"EGL_NV_device_cuda" not in extensions or not attribute(
            found[index], EGL_CUDA_DEVICE_NV, ctypes.byref(cuda)
        ):
            continue
        uuid = pci = ""
        if b"EGL_EXT_device_persistent_id" in extensions and binary_pointer:
            binary_type = ctypes.CFUNCTYPE(
                ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, int_pointer
            )
            data, size = ctypes.create_string_buffer(16), ctypes.c_int(0)
            if binary_type(binary_pointer)(found[index], EGL_DEVICE_UUID_EXT, 16, data, ctypes.byref(size)):
                uuid = data.raw.hex()
        if b"EGL_EXT_device_drm" in extensions:
            file = (text(found[index], EGL_DRM_DEVICE_FILE_EXT) or b"").decode()
            link = Path("/sys/class/drm") / Path(file).name / "device"
            pci = link.resolve().name if file and link.exists() else ""
        devices.append(EglDevice(index, cuda.value, uuid, pci))
    return devices
