"""Run every mesh and voxel file of a folder through ``render`` and the voxelization for training, and tally the results.

``make sweep DIR=FOLDER`` prints one line per refused file, and exits with status 1 after a traceback or a hang.
"""

import argparse
import contextlib
import io
import multiprocessing
import sys
import tempfile
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120.0  # per file and path; longer counts as a hang


def render(path: Path, folder: str) -> str:
    """Render a file; return an empty string, or the message that refused it."""
    from renderers.mesh_files import SUFFIXES
    from trainer.__main__ import main

    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        fit = ["--fit"] if path.suffix.lower() in SUFFIXES else []  # render refuses it for voxels
        status = main(["render", str(path), *fit, "--image_size", "64", "--output", folder])
    lines = errors.getvalue().strip().splitlines()
    if status == 0:
        return ""
    if status != 2 or "Traceback" in errors.getvalue():
        raise RuntimeError(f"status {status}: {errors.getvalue()}")
    return lines[-1] if lines else "no message"


def train(path: Path, folder: str) -> str:
    """Voxelize a file as for training; return an empty string, or the message that refused it."""
    from datamodules.shapes.folder import load_solid
    from utils.errors import InputError

    try:
        load_solid(path, 32)
    except InputError as error:
        return error.message
    return ""


PATHS = {"render": render, "train": train}


def work(connection: Connection) -> None:
    """Answer requests (path, file) with (outcome, message) until the connection closes."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EOFError):
        while True:
            name, path = connection.recv()
            try:
                message = PATHS[name](path, folder)
                connection.send(("refused" if message else "drawn", message))
            except BaseException:
                connection.send(("traceback", traceback.format_exc()))


class Worker:
    """A process that is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.connection, other = multiprocessing.get_context("spawn").Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def ask(self, name: str, path: Path, seconds: float) -> tuple[str, str]:
        self.connection.send((name, path))
        if self.connection.poll(seconds):
            with contextlib.suppress(EOFError, ConnectionResetError):
                return self.connection.recv()
        outcome = "hang" if self.process.is_alive() else "traceback"
        self.stop()
        self._start()
        return outcome, f"{outcome}, or the process was killed"

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from renderers.mesh_files import SUFFIXES

    files = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in (*SUFFIXES, ".binvox") and p.is_file())
    tally: Counter[tuple[str, str]] = Counter()
    worker = Worker()
    for path in files:
        for name in PATHS:
            outcome, message = worker.ask(name, path, options.seconds)
            tally[name, outcome] += 1
            if outcome != "drawn":
                print(f"{name}: {outcome}: {path.relative_to(options.folder)}: {message.strip()}", flush=True)
    worker.stop()
    outcomes = ("drawn", "refused", "traceback", "hang")
    for name in PATHS:
        print(f"{name}: {len(files)} files: " + ", ".join(f"{tally[name, outcome]} {outcome}" for outcome in outcomes))
    return int(any(tally[name, outcome] for name in PATHS for outcome in ("traceback", "hang")))


if __name__ == "__main__":
    raise SystemExit(main())
