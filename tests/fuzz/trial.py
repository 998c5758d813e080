"""Run a parser on a mutated file and classify the outcome."""

import logging
import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fuzz.mutations import mutate
from fuzz.targets import TARGETS, Target
from renderers import InputError

SECONDS = 10  # per small file


class HangError(BaseException):
    """A timeout. Not an ``Exception``, so that parsers do not catch it."""


def inputs(content: bytes, seed: int, first: int, count: int) -> Iterator[bytes]:
    """Yield mutated versions of a file, each with its own seed."""
    for number in range(first, first + count):
        yield mutate(content, np.random.default_rng([seed, number]))


def judge(target: Target, path: Path, content: bytes) -> tuple[str, str]:
    """Return ``read``, ``refused`` (with one sentence that names the file) or a kind of finding, and the message."""
    path.write_bytes(content)
    try:
        with _time_limit(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            target.read(path)
    except InputError as error:
        sentence = error.message
        named = path.name in sentence or str(path.parent) in sentence
        if target.quiet:
            return "refused instead of ignored", sentence
        if not named or "Traceback" in sentence or len(sentence) > 600:
            return "unclear message", sentence
        return "refused", sentence
    except HangError:
        return "hang", f"more than {SECONDS} s"
    except Exception:
        return "crash", traceback.format_exc()
    return "read", ""


def limit_memory(more: int) -> None:
    """Limit this process to ``more`` bytes of address space in addition to what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def quiet() -> None:
    """Disable log output of parsers that skip corrupt data."""
    logging.disable(logging.WARNING)


__all__ = ["TARGETS", "inputs", "judge", "limit_memory", "quiet"]
