"""The parser of a command's options. This module must not import torch, so that help appears at once."""

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from utils.errors import InputError

TRUST = "load any class that the run's config names, and follow its links: it can run any code, see docs/trust.md"


class CommandParser(argparse.ArgumentParser):
    """Raises errors as InputError instead of printing usage and exiting.

    Args:
        command: Name of the command.
        description: The first paragraph of its help.
        examples: Command lines without ``python -m trainer``, printed at the end of the help.
        notes: Lines printed before the examples.
    """

    def __init__(
        self, command: str, description: str, examples: Iterable[str] = (), notes: Iterable[str] = (), **options: Any
    ) -> None:
        lines = [f"  python -m trainer {example}" for example in examples]
        notes = [*notes, "", "examples:"] if notes and lines else ["examples:"] if lines else notes
        super().__init__(
            f"python -m trainer {command}",
            description=description,
            epilog="\n".join([*notes, *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def add(self, option: str, help: str, type: Any = None, default: Any = None, **options: Any) -> None:
        """Add an option such as ``--rows N``. A default is shown in its help; as text, it is converted by ``type``."""
        name, _, metavar = option.partition(" ")
        options |= {"metavar": metavar} if metavar else {}
        help = help if default is None else f"{help} (default: %(default)s)"
        self.add_argument(name, help=help, type=type, default=default, **options)

    def add_flag(self, option: str, help: str) -> None:
        self.add_argument(option, help=help, action="store_true")

    def add_run_options(self) -> None:
        """Add the options that name a run and its checkpoint."""
        self.add("--run_dir RUN", "a run created by fit, a file of publish, or pretrained/NAME of the package")
        self.add("--ckpt_path FILE", "another checkpoint: a file, or last or best of the run")
        self.add_flag("--trust", TRUST)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help lists the options")
