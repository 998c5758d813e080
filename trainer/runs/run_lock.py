"""Whether the process that a run's run_metadata names still trains: a killed one could not write down that it ended."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT = 20.0  # seconds between two signs of life: the run_metadata is touched
SILENCE = (
    90.0  # seconds without one after which a process on another machine is taken for dead; NFS caches times for 60
)
LISTED = 300.0  # the same where nobody waits to see, by the file server's clock


def process_identity() -> dict[str, Any]:
    """What a run_metadata says about this process: ``pid``, ``host``, when it was ``born``, and its SLURM ``job``, if any."""
    about = {"pid": os.getpid(), "host": _host(), "born": _born(os.getpid()), "job": os.environ.get("SLURM_JOB_ID")}
    return {key: value for key, value in about.items() if value is not None}


def is_alive(run_metadata: dict[str, Any], file: Path, wait: bool = False) -> bool:
    """Whether the process that wrote a run_metadata lives.

    On this machine the system knows. Of another machine, a SLURM job that runs again ends its earlier start; otherwise
    the run_metadata's time tells.

    Args:
        run_metadata: its content.
        file: where it stands.
        wait: look for signs of life for up to a minute and a half, instead of trusting the clocks.
    """
    if "pid" not in run_metadata:
        return False
    if run_metadata.get("host") == _host():
        return _lives(int(run_metadata["pid"]), run_metadata.get("born"))
    if run_metadata.get("job") and run_metadata["job"] == os.environ.get("SLURM_JOB_ID"):
        return False
    try:
        heard = file.stat().st_mtime
        if not wait:
            return time.time() - heard < LISTED
        began = time.monotonic()
        while time.monotonic() - began < SILENCE:
            time.sleep(1)
            if file.stat().st_mtime != heard:
                return True
    except FileNotFoundError:
        pass
    return False


@contextmanager
def heartbeat(file: Path) -> Iterator[None]:
    """Touch a run_metadata now and then, from a thread of its own: an evaluation may take longer than others wait."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _host() -> str:
    """This machine; a container counts as one, because it numbers its processes by itself."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _lives(pid: int, born: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return born is None or _born(pid) == born  # else the number was given to another process


def _born(pid: int) -> str | None:
    """When a process began, on this boot of this machine; None where the system does not tell, or it is a zombie."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"
