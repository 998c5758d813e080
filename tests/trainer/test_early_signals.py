"""Ctrl-C in the first seconds of a command, while it imports its modules."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.__main__ import COMMANDS, Command, main
from utils.early_signals import Interrupts, exit_at_signals

SCRIPT = "import sys; sys.argv[0] = 'bin/unrender'; import trainer.__main__ as m; sys.exit(m.script())"


@pytest.fixture(autouse=True)
def default_sigint() -> Iterator[None]:
    """Python's own handler, also where the tests run in the background of a shell, which lets them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def handles_sigterm(process: subprocess.Popen) -> bool:
    """Whether the process has a handler of SIGTERM, which Python itself does not install."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("start", [["-m", "trainer"], ["-c", SCRIPT]], ids=["module", "script"])
@pytest.mark.parametrize(
    ("number", "status", "seconds"), [(signal.SIGINT, 130, 0), (signal.SIGINT, 130, 0.7), (signal.SIGTERM, 143, 0.3)]
)
def test_a_signal_while_modules_are_imported(environment, workplace, start, number, status, seconds):
    words = [sys.executable, *start, "fit", "--config", "toy.yaml"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment, cwd=workplace, **pipes) as process:
        deadline = time.monotonic() + 60
        while not handles_sigterm(process) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err and out == ""
    assert not (workplace / "runs").exists()


def test_a_program_that_imports_the_package_keeps_its_handlers():
    code = "import signal; before = signal.getsignal(2), signal.getsignal(15); import trainer; "
    code += "assert (signal.getsignal(2), signal.getsignal(15)) == before"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def interrupted_import(argv: list[str]) -> int:
    """As numpy does if a signal arrives while it is imported."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RecursionError("numpy failed to import") from None
    return 0


def test_an_error_that_a_library_raises_instead_of_the_interrupt(monkeypatch):
    monkeypatch.setitem(COMMANDS, "fid", Command("", f"{__name__}:interrupted_import"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[interrupted_import.__module__])
    assert main(["fid"]) == 130
    monkeypatch.setattr(signal, "raise_signal", lambda _: None)
    assert main(["fid"]) == 0


def test_interrupts_replace_only_the_handlers_of_the_start():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        exit_at_signals()
        quick = signal.getsignal(signal.SIGTERM)
        with Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert interrupts.received
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is quick
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as by nohup
        with Interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
