"""What both OpenGL backends need of the process: a device, one log line, and no fork."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
from functools import lru_cache

from utils.errors import InputError

log = logging.getLogger(__name__)

NO_OPENGL = (
    "OpenGL does not work on this machine ({reason}). On Debian or Ubuntu: "
    "apt-get install -y libegl1 libgl1-mesa-dri; elsewhere install a driver with EGL"
)
EGL_EXTENSIONS, EGL_CUDA_DEVICE_NV = 0x3055, 0x323A


def no_opengl(error: Exception) -> InputError:
    """The error to raise where a context could not be made; every library has its own."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(NO_OPENGL.format(reason=reason))


def refuse_fork(pid: int) -> None:
    """Raise RuntimeError where OpenGL was first used by another process, whose fork this one is."""
    if pid != os.getpid():
        raise RuntimeError(
            "this process was forked after OpenGL was first used, and OpenGL would hang in it; start workers before the "
            "first image or with multiprocessing_context='spawn'"
        )


@lru_cache(maxsize=8)
def log_renderer(backend: str, name: str) -> None:
    """Say once a process what draws: EGL falls back to software without a word."""
    log.info("OpenGL (%s) draws with %s", backend, name)


@lru_cache(maxsize=1)
def choose_device() -> int | None:
    """Index of the EGL device for this process, or None for the default one.

    ``EGL_DEVICE_ID`` decides where it is set. Else, with ``LOCAL_RANK`` (torchrun, Lightning) or ``SLURM_LOCALID`` (srun)
    set, the ranks share the NVIDIA devices out in the order of their CUDA indices, which is not EGL's. The choice is
    written to ``EGL_DEVICE_ID``, where pyrender looks for it. Machines without NVIDIA's EGL keep the default.
    """
    chosen = os.environ.get("EGL_DEVICE_ID")
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if chosen is not None:
        if not chosen.isdecimal():
            raise InputError(f"EGL_DEVICE_ID must be a device's index, got {chosen!r}")
        return int(chosen)
    if rank is None or not rank.isdecimal():
        return None
    devices = cuda_egl_devices()
    if not devices:
        return None
    index = devices[int(rank) % len(devices)]
    os.environ["EGL_DEVICE_ID"] = str(index)
    return index


def cuda_egl_devices() -> list[int]:
    """EGL's indices of the devices that are CUDA devices, in CUDA's order; empty without NVIDIA's driver."""
    try:
        egl = ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1")
        address = egl.eglGetProcAddress
    except (OSError, AttributeError):
        return []
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    pointers = [
        address(name) for name in (b"eglQueryDevicesEXT", b"eglQueryDeviceStringEXT", b"eglQueryDeviceAttribEXT")
    ]
    if not all(pointers):
        return []
    device_list, count = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, device_list, count)(pointers[0])
    text = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(pointers[1])
    attribute = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(
        pointers[2]
    )
    devices, found = (ctypes.c_void_p * 64)(), ctypes.c_int(0)
    if not query(64, devices, ctypes.byref(found)):
        return []
    by_cuda = []
    for i in range(found.value):
        number = ctypes.c_ssize_t(-1)
        if b"EGL_NV_device_cuda" in (text(devices[i], EGL_EXTENSIONS) or b"") and attribute(
            devices[i], EGL_CUDA_DEVICE_NV, ctypes.byref(number)
        ):
            by_cuda.append((number.value, i))
    return [i for _, i in sorted(by_cuda)]
