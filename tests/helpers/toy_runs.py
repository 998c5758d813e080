"""Runs of the toy experiment in ``run`` of the current directory."""

from pathlib import Path

import pytest

from trainer.__main__ import main

RUN = Path("run")
FIT = ["fit", "--config", "toy.yaml", "--run_dir", "run"]
LAST = RUN / "checkpoints/last.ckpt"


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, *argv: str) -> None:
    """Train up to a step and stop by SIGTERM."""
    with monkeypatch.context() as patched:
        patched.setenv("TOY_SIGNALS", f"{step}:SIGTERM")
        assert main([*FIT, *argv]) == 143
