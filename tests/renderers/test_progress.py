"""What is said of progress on a terminal, and what in a log."""

import io
import sys

import pytest

from utils import progress
from utils.progress import Progress, SparseLines


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_what_is_quick_says_nothing_in_a_log(capsys):
    with Progress(1000, "drawing", "image") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr() == ("", "")


def test_a_log_has_a_plain_line_now_and_then(capsys, clock):
    with Progress(1000, "drawing", "image") as bar:
        for _ in range(1000):
            clock.now += 1
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing: 3 % (30 of 1,000 images), 16:10 left"
    assert len(lines) == 20  # one each 5 %
    assert not any("\r" in line for line in lines)


def test_what_lasts_for_hours_has_a_line_in_ten_minutes(clock):
    lines = SparseLines(100_000)
    said = 0
    for _ in range(3600):
        clock.now += 1
        lines.done += 1
        said += lines.due()
    assert said == 6


def test_an_unknown_amount_has_no_share(capsys, clock):
    with Progress(None, "downloading", "byte") as bar:
        clock.now += 700
        bar.update(5000)
    assert capsys.readouterr().err == "downloading: 5,000 bytes\n"


def test_an_error_ends_the_bar_of_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(ValueError), Progress(10, "drawing", "image") as bar:
        bar.update(5)
        raise ValueError
    screen.write("error: it failed\n")
    last = screen.getvalue().split("\r")[-1]
    assert "drawing:" in screen.getvalue()
    assert last == "error: it failed\n"  # at the left border of a line that was wiped
