"""Commands whose output nobody reads any more, as in ``unrender doctor | head -1``: status 141 and nothing on stderr."""

import json
import os
import subprocess
import sys

import pytest

from trainer.__main__ import COMMANDS, Command, main

START = [sys.executable, "-m", "trainer"]


def into_closed_pipe(words, environment, workplace, *, unbuffered, both=False):
    """Run a command line with stdout, or both streams, as a pipe without a reader; return its status and stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = environment | {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    stderr = writer if both else subprocess.PIPE
    done = subprocess.run([*START, *words], env=environment, cwd=workplace, stdout=writer, stderr=stderr, text=True)
    os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("words", [["--help"], ["completion", "bash"]])
def test_a_closed_pipe_ends_a_command_quietly(environment, workplace, words, unbuffered):
    assert into_closed_pipe(words, environment, workplace, unbuffered=unbuffered) == (141, "")


def test_an_error_that_nobody_reads(environment, workplace):
    assert into_closed_pipe(["fti"], environment, workplace, unbuffered=True, both=True) == (141, "")
    status, err = into_closed_pipe(["fti"], environment, workplace, unbuffered=True)  # nothing is printed to stdout
    assert status == 2 and "did you mean fit?" in err


@pytest.mark.slow
def test_a_training_that_nobody_watches_is_interrupted_and_can_be_resumed(environment, workplace):
    words = ["fit", "--config", "toy.yaml", "--run_dir", "run"]
    status, err = into_closed_pipe(words, environment, workplace, unbuffered=True)
    assert status == 141 and "Traceback" not in err and "BrokenPipe" not in err
    assert json.loads((workplace / "run/run.json").read_text())["status"] == "interrupted"
    assert main(["fit", "--run_dir", "run", "--trust"]) == 0


def other_pipe(argv):
    raise BrokenPipeError(32, "Broken pipe")


def test_an_error_of_another_pipe_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(COMMANDS, "fid", Command("", f"{__name__}:other_pipe"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[other_pipe.__module__])
    with pytest.raises(BrokenPipeError):
        main(["fid"])
