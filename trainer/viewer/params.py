"""Query parameters of a request."""

from __future__ import annotations

from utils.errors import InputError

MAX_INTEGER = 1_000_000


class QueryParameters:
    """Parse and validate query parameters. Each method consumes one parameter and returns its default if it is missing.

    Args:
        values: Strings by name.

    Raises:
        InputError: By all methods, for an invalid value or an unknown parameter.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._unused = dict(values)

    def integer(self, name: str, default: int, low: int = 0, high: int = MAX_INTEGER) -> int:
        """Return an integer from ``low`` to ``high``."""
        text = self._unused.pop(name, str(default))
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
            raise InputError(f"{name} must be an integer from {low} to {high}")
        return int(text)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number from ``low`` to ``high``."""
        try:
            number = float(self._unused.pop(name, default))
        except ValueError:
            number = float("nan")
        if not low <= number <= high:  # also true for NaN
            raise InputError(f"{name} must be a number from {low:g} to {high:g}")
        return number

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``; the first is the default."""
        value = self._unused.pop(name, choices[0])
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}")
        return value

    def finish(self) -> None:
        """Check that all parameters have been consumed."""
        if self._unused:
            raise InputError(f"unknown parameter {sorted(self._unused)[0][:40]!r}")
