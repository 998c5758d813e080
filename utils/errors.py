"""The exception for invalid user input, and checks of numbers and choices that raise it."""

import errno
import math
from collections.abc import Sequence


class InputError(ValueError):
    """Invalid file, option or machine setup. The message names what is wrong and how to fix it, in one sentence.

    The command line prints only the message and exits with status 2. Any other exception keeps its traceback.
    """

    @property
    def message(self) -> str:
        """The message on one line, without control characters, which names of files may contain."""
        return " ".join(printable(str(self)).split())


def printable(text: str) -> str:
    """Replace control characters, which could change what a terminal shows, by spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def is_temporary(error: BaseException | None) -> bool:
    """Whether an error comes from the machine, not from the content of a file, so that the file may be readable later.

    This is an ``OSError`` of the operating system, such as missing permissions, or a ``MemoryError``. An ``OSError``
    that Pillow raises for a corrupt file has no ``errno``, and a seek to an offset from a corrupt file is ``EINVAL``.
    """
    while error is not None:
        system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if system or isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def system_reason(error: BaseException) -> str:
    """Return the reason of a temporary error in words, such as "Permission denied"."""
    return getattr(error, "strerror", None) or "out of memory"


def check_number(
    name: str,
    value: float,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check that an argument is a finite number within limits.

    Args:
        name: Name of the argument.
        value: Its value.
        at_least: Smallest allowed value.
        above: Number that it must exceed.
        at_most: Largest allowed value.
        below: Number that it must not reach.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, int | float):
        raise InputError(f"{name} must be a number, not {value}")
    if math.isfinite(value) and at_least <= value <= at_most and above < value < below:
        return
    limits = [] if math.isfinite(value) else ["finite"]
    for words, limit in (("at least", at_least), ("above", above), ("at most", at_most), ("below", below)):
        limits += [f"{words} {limit:.10g}"] if math.isfinite(limit) else []
    raise InputError(f"{name} must be {' and '.join(limits)}, not {value}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that an argument is one of a few words. jsonargparse checks ``Literal`` arguments of configs, Python does not.

    Args:
        name: Name of the argument.
        value: Its value.
        choices: The allowed words.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
