"""Refuses ``null`` for arguments of classes that need a value: jsonargparse accepts it for every type."""

import inspect
import re
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from trainer.cli.config_composition import Composed
from trainer.cli.trainer_options import class_of
from utils.errors import InputError


def check_null_values(config: Namespace, composed: Composed, given: Iterable[str]) -> None:
    """Check the arguments of all classes that a config names.

    Args:
        config: What was parsed.
        composed: The files' values and their origins.
        given: The keys given as options.

    Raises:
        InputError: One of them is null, but neither its annotation nor its default is.
    """
    options = {key.replace(".init_args.", ".") for key in given}
    for key, expected in _nulls(config, ""):
        path = composed.origin(key)
        prefix = "--" if key.replace(".init_args.", ".") in options else f"{path}: " if path else ""
        raise InputError(f"{prefix}{key} must be {expected}, not null")


def _nulls(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key of each such argument, and the type that it should have."""
    if isinstance(value, list):
        for item in value:
            yield from _nulls(item, key)
    if not isinstance(value, Namespace):
        return
    chosen = class_of(value)
    for name, inner in vars(value.get("init_args") or Namespace() if chosen else value).items():
        inner_key = ".".join(filter(None, (key, "init_args" if chosen else "", name)))
        if chosen and inner is None and (expected := _required_type(chosen, name)):
            yield inner_key, expected
        yield from _nulls(inner, inner_key)


def _required_type(cls: type, name: str) -> str | None:
    """Return the type of a constructor's argument that must not be None; None if it may be, or if nothing is known."""
    for base in inspect.getmro(cls):  # bases take the arguments that a constructor passes on
        parameter = inspect.signature(base.__init__).parameters.get(name) if "__init__" in vars(base) else None  # type: ignore[misc]
        if parameter is None:
            continue
        try:
            hint = get_type_hints(base.__init__).get(name, Any)  # type: ignore[misc]
        except (NameError, TypeError):  # annotations of a class of the user's
            return None
        if hint in (Any, object) or parameter.default is None or NoneType in get_args(hint):
            return None
        return (
            hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b(?:\w+\.)+", "", str(hint))
        )
    return None
