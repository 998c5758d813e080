"""What the words of options mean; each refuses what does not fit in one sentence."""

import argparse
import math
from collections.abc import Callable
from typing import Literal

EXTRACTORS = ("renders_small", "renders", "imagenet")
FORMATS = ("glb", "obj", "ply", "stl", "binvox", "npz")


def shard(text: str) -> tuple[int, int]:
    """``3/64``: which of how many, from 1."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/64")
    return int(first), int(second)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port, a whole number from 0 to 65535")
    return int(text)


def subset(text: str) -> int:
    if not text.isdecimal() or int(text) == 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor a whole number from 2 on")
    return int(text)


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return number


def different(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise argparse.ArgumentTypeError(f"{text!r} are no different whole numbers with commas between")
    return [int(word) for word in words]


def numbers(text: str) -> list[int]:
    """``0-3,7`` as 0, 1, 2, 3, 7."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0-7 or 1,5")
        wanted = range(int(first), int(last or first) + 1)
        if len(found) + wanted.stop - wanted.start > 100_000:
            raise argparse.ArgumentTypeError(f"{text!r} are more than 100,000")
        found += wanted
    return list(dict.fromkeys(found))


def count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 10000")
    return int(text)


def zoom(text: str) -> float:
    if (number := positive(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 1")
    return number


def words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",")))


def psi_list(text: str) -> tuple[float, ...]:
    try:
        psis = tuple(float(word) for word in text.split(","))
    except ValueError:
        psis = ()
    if not psis or not all(map(math.isfinite, psis)):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,0.5,0")
    return psis


def or_none(read: Callable[[str], float]) -> Callable[[str], float | Literal["none"]]:
    """``none``, or what ``read`` makes of the text."""
    return lambda text: "none" if text == "none" else read(text)


def degrees(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of degrees such as 0,45,90") from None


def formats(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.lower().lstrip(".") for word in text.split(",")))
    for word in words:
        if word not in FORMATS:
            raise argparse.ArgumentTypeError(f"there is no format {word!r}; the formats are {', '.join(FORMATS)}")
    return words
