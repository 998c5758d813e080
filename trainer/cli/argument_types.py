"""Types of command-line options. Each converts text to a value and rejects invalid text in one sentence."""

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Literal

from utils.errors import InputError

FORMATS = ("glb", "obj", "ply", "stl", "binvox", "npz")
MAX_LIST = 100_000
MAX_SEED = 2**32 - 1  # of --seed_everything


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A decimal integer from ``low`` to ``high``, both included."""
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        if not (_is_integer(text) and low <= int(text) <= (math.inf if high is None else high)):
            raise ArgumentTypeError(f"{text!r} is not an integer {limits}")
        return int(text)

    return parse


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """A finite number from ``low`` to ``high``, both included."""
    limits = f"of at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"

    def parse(text: str) -> float:
        value = _to_float(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return parse


def positive(text: str) -> float:
    value = _to_float(text)
    if not (math.isfinite(value) and value > 0):
        raise ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def or_none(parse: Callable[[str], float]) -> Callable[[str], float | Literal["none"]]:
    """``none``, or a value of another type."""
    return lambda text: "none" if text == "none" else parse(text)


def subset(text: str) -> int:
    """0, or an integer of at least 2."""
    if not _is_integer(text) or int(text) == 1:
        raise ArgumentTypeError(f"{text!r} is neither 0 nor an integer of at least 2")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """``3/64``: part 3 of 64, counted from 1."""
    index, _, count = text.partition("/")
    if not (_is_integer(index) and _is_integer(count) and 1 <= int(index) <= int(count)):
        raise ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/64")
    return int(index), int(count)


def integer_ranges(text: str) -> list[int]:
    """``0-3,7`` as 0, 1, 2, 3, 7."""
    values: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not _is_integer(first) or (dash and not (_is_integer(last) and int(first) <= int(last))):
            raise ArgumentTypeError(f"{text!r} is not a list such as 0-7 or 1,5")
        added = range(int(first), int(last or first) + 1)
        if len(values) + added.stop - added.start > MAX_LIST:
            raise ArgumentTypeError(f"{text!r} has more than {MAX_LIST:,} values")
        values += added
    return list(dict.fromkeys(values))


def seeds(text: str) -> list[int]:
    words = text.split(",")
    if not all(map(_is_integer, words)) or len(set(map(int, words))) < len(words):
        raise ArgumentTypeError(f"{text!r} is not a list of distinct integers such as 0,1,2")
    if (largest := max(map(int, words))) > MAX_SEED:
        raise ArgumentTypeError(f"the seed {largest} is above {MAX_SEED}")
    return [int(word) for word in words]


def numbers(text: str) -> tuple[float, ...]:
    values = tuple(_to_float(word) for word in text.split(","))
    if not all(map(math.isfinite, values)):
        raise ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,0.5,0")
    return values


def words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))


def formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.lower().lstrip(".") for word in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise ArgumentTypeError(f"unknown format {name!r}; the formats are {', '.join(FORMATS)}")
    return names


def expand_home(word: str) -> str:
    """Expand ``~`` at the beginning of a value or of an option's value. Shells do so only at the beginning of a word."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{os.path.expanduser(value)}" if value.startswith("~") else word  # noqa: PTH111  keeps URLs


def split_data_options(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split words into those that change the config's data, as ``--data.NAME=VALUE``, and the rest.

    Raises:
        InputError: an option of the data without a value.
    """
    options: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--data."):
            rest.append(word)
        elif "=" in word:
            options.append(word)
        elif (value := next(words, "--")).startswith("--"):
            raise InputError(f"{word} needs a value: {word}=VALUE")
        else:
            options.append(f"{word}={value}")
    return options, rest


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
