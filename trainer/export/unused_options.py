"""Refuse options that have no effect on what a command writes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from utils.errors import InputError


def given_options(parser: argparse.ArgumentParser, argv: list[str], options: argparse.Namespace) -> set[str]:
    """Return the names of the options in ``argv``, also of those with their default values.

    Args:
        parser: Parser of the command.
        argv: Its arguments.
        options: What it has parsed from them.
    """
    unset = argparse.Namespace(**dict.fromkeys(vars(options)))  # argparse keeps these values instead of its defaults
    return {name for name, value in vars(parser.parse_args(argv, unset)).items() if value is not None}


def refuse_unused(given: set[str], effects: Mapping[str, tuple[object, str]]) -> None:
    """Refuse a given option without effect.

    Args:
        given: Names of the given options.
        effects: For each option whether it has an effect (any true value), and what it is for, in words.

    Raises:
        InputError: An option has no effect.
    """
    for name, (effective, purpose) in effects.items():
        if name in given and not effective:
            raise InputError(f"--{name} is for {purpose}; omit it")
