"""Progress output on a terminal and in a log."""

import io
import sys

import pytest

from utils import progress
from utils.progress import LogThrottle, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    fake = Clock()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def test_short_operations_print_nothing_in_a_log(capsys):
    with Progress(1000, "rendering", "image") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_plain_line_every_five_percent(capsys, clock):
    with Progress(1000, "rendering", "image") as bar:
        for _ in range(1000):
            clock.now += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rendering: 3 % (30 of 1,000 images), 16:10 left"
    assert len(lines) == 20
    assert not any("\r" in line for line in lines)


def test_long_operations_print_a_line_every_ten_minutes(clock):
    lines = LogThrottle(100_000)
    count = 0
    for _ in range(3600):
        clock.now += 1
        lines.done += 1
        count += lines.due()
    assert count == 6


def test_batches_are_counted_in_whole_numbers(clock):
    lines = LogThrottle(25)
    lines.done += 1
    assert lines.describe(f"batch {lines.done:,} of {lines.total:,}").startswith("4 % (batch 1 of 25)")


def test_unknown_totals_have_no_percentage(capsys, clock):
    with Progress(None, "downloading", "byte") as bar:
        clock.now += 700
        bar.update(5000)
    assert capsys.readouterr().err == "downloading: 5,000 bytes\n"


def test_an_exception_erases_the_bar_of_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(ValueError), Progress(10, "rendering", "image") as bar:
        bar.update(5)
        raise ValueError
    screen.write("error: it failed\n")
    last = screen.getvalue().split("\r")[-1]
    assert "rendering:" in screen.getvalue()
    assert last == "error: it failed\n"  # at the start of an erased line
