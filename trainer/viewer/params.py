"""The parameters of one request."""

from __future__ import annotations

from utils.errors import InputError

LARGEST = 1_000_000  # of whole numbers


class Query:
    """Parameters, each of which must be known and in range; what is left out has a default.

    Args:
        given: by name.
    """

    def __init__(self, given: dict[str, str]) -> None:
        self._left = dict(given)

    def whole(self, name: str, default: int, low: int = 0, high: int = LARGEST) -> int:
        """Raises InputError unless it is a whole number from ``low`` to ``high``."""
        text = self._left.pop(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
            raise InputError(f"{name} must be a whole number from {low} to {high}")
        return int(text)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Raises InputError unless it is a number from ``low`` to ``high``."""
        try:
            number = float(self._left.pop(name, default))
        except ValueError:
            number = float("nan")
        if not low <= number <= high:  # so written, NaN is refused too
            raise InputError(f"{name} must be a number from {low:g} to {high:g}")
        return number

    def word(self, name: str, words: tuple[str, ...]) -> str:
        """One of ``words``, the first if it is left out; raises InputError for another."""
        word = self._left.pop(name, words[0])
        if word not in words:
            raise InputError(f"{name} must be one of {', '.join(words)}")
        return word

    def end(self) -> None:
        """Raise InputError if something was given that nobody asked for."""
        if self._left:
            raise InputError(f"there is no parameter {sorted(self._left)[0][:40]!r} here")
