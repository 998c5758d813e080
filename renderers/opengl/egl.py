"""Process-wide setup of both OpenGL backends: EGL device, log line, fork check."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
from functools import lru_cache

from utils.errors import InputError

log = logging.getLogger(__name__)

NO_OPENGL = (
    "OpenGL does not work on this machine ({reason}). On Debian or Ubuntu run "
    "apt-get install -y libegl1 libgl1-mesa-dri; elsewhere install a driver with EGL"
)
EGL_EXTENSIONS, EGL_CUDA_DEVICE_NV = 0x3055, 0x323A


def no_opengl(error: Exception) -> InputError:
    """Return the error to raise if a library could not create a context."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return InputError(NO_OPENGL.format(reason=reason))


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


@lru_cache(maxsize=1)
def choose_device() -> int | None:
    """Return the index of the EGL device for this process, or None for the default device.

    ``EGL_DEVICE_ID`` takes precedence. Otherwise, if ``LOCAL_RANK`` (torchrun, Lightning) or ``SLURM_LOCALID`` (srun) is
    set, ranks are assigned to the NVIDIA devices in the order of their CUDA indices, which differs from EGL's. The choice
    is written to ``EGL_DEVICE_ID``, which pyrender reads. Without NVIDIA's EGL the default device is used.

    Raises:
        InputError: if ``EGL_DEVICE_ID`` is not a non-negative integer.
    """
    chosen = os.environ.get("EGL_DEVICE_ID")
    rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if chosen is not None:
        if not chosen.isdecimal():
            raise InputError(f"EGL_DEVICE_ID must be the index of a device, got {chosen!r}")
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
    """Return the EGL indices of the CUDA devices, in CUDA's order; an empty list without NVIDIA's driver."""
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
    device_list, int_pointer = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, device_list, int_pointer)(pointers[0])
    text = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(pointers[1])
    attribute = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_ssize_t))(
        pointers[2]
    )
    devices, device_count = (ctypes.c_void_p * 64)(), ctypes.c_int(0)
    if not query(64, devices, ctypes.byref(device_count)):
        return []
    indices = []
    for egl_index in range(device_count.value):
        cuda_index = ctypes.c_ssize_t(-1)
        extensions = text(devices[egl_index], EGL_EXTENSIONS) or b""
        if b"EGL_NV_device_cuda" in extensions and attribute(
            devices[egl_index], EGL_CUDA_DEVICE_NV, ctypes.byref(cuda_index)
        ):
            indices.append((cuda_index.value, egl_index))
    return [egl_index for _, egl_index in sorted(indices)]
