"""Decide whether the process that ``run.json`` names is still training: a killed process cannot record its end.

A lock file (as of ``filelock``) cannot replace this: NFS may keep the lock of a machine that crashed, and a requeued SLURM
job has to resume its own run at once.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HEARTBEAT = 20.0  # seconds between two updates of run.json's modification time
TIMEOUT = 90.0  # seconds without an update after which a process on another machine is dead; NFS caches times for 60
CLOCK_TIMEOUT = 300.0  # the same where this machine's clock is compared with the file server's


def process_identity() -> dict[str, Any]:
    """The entries of ``run.json`` about this process: ``pid``, ``host``, start time ``born``, and its SLURM ``job``."""
    pid = os.getpid()
    entries = {"pid": pid, "host": _host(), "born": _start_time(pid), "job": os.environ.get("SLURM_JOB_ID")}
    return {key: value for key, value in entries.items() if value is not None}


def is_alive(metadata: dict[str, Any], file: Path, wait: bool = False) -> bool:
    """Whether the process that wrote ``run.json`` is alive.

    The system knows the processes of this machine. For another machine, the file's heartbeat decides, except that a SLURM
    job that was requeued has replaced its earlier process.

    Args:
        metadata: The content of ``run.json``.
        file: Its path.
        wait: Watch for a heartbeat for up to :data:`TIMEOUT` seconds instead of comparing clocks.
    """
    if "pid" not in metadata:
        return False
    if metadata.get("host") == _host():
        return _is_running(int(metadata["pid"]), metadata.get("born"))
    if metadata.get("job") and metadata["job"] == os.environ.get("SLURM_JOB_ID"):
        return False
    try:
        modified = file.stat().st_mtime
        if not wait:
            return time.time() - modified < CLOCK_TIMEOUT
        start = time.monotonic()
        while time.monotonic() - start < TIMEOUT:
            time.sleep(1)
            if file.stat().st_mtime != modified:
                return True
    except FileNotFoundError:
        pass
    return False


@contextmanager
def heartbeat(file: Path) -> Iterator[None]:
    """Update a file's modification time every :data:`HEARTBEAT` seconds.

    A thread does it, since a single evaluation may take longer than :data:`TIMEOUT`.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _host() -> str:
    """Name of this machine. A container counts as a machine, because it has its own process ids."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_running(pid: int, start_time: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return start_time is None or _start_time(pid) == start_time  # otherwise the id was reused


def _start_time(pid: int) -> str | None:
    """Boot id and start time of a process; None if the system does not provide them or the process is a zombie."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"
