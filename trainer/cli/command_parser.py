"""How every command reads its options: errors in one sentence, help with examples."""

import argparse
from typing import Any, NoReturn


class CommandParser(argparse.ArgumentParser):
    """Raises instead of printing its usage and leaving.

    Args:
        command: its name.
        description: the first sentence of its help.
        examples: command lines, without ``python -m trainer``; or what else stands last.
    """

    def __init__(self, command: str, description: str, examples: tuple[str, ...] = (), **options: Any) -> None:
        epilog = "\n".join(["examples:", *(f"  python -m trainer {line}" for line in examples)]) if examples else None
        super().__init__(
            f"python -m trainer {command}",
            description=description,
            epilog=options.pop("epilog", epilog),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        from utils.errors import InputError  # here, because it brings torch

        raise InputError(f"{message}; {self.prog} --help lists the options")


def parse(parser: CommandParser, argv: list[str]) -> argparse.Namespace | None:
    """The options on a command line, or None where it asked for help, which is then printed.

    Raises:
        InputError: options that there are not, or values that do not fit.
    """
    try:
        return parser.parse_args(argv)
    except SystemExit:
        return None


def run_options(parser: CommandParser) -> None:
    """Add those that name a run and its checkpoint."""
    parser.add_argument("--run_dir", metavar="RUN", help="a run that fit made: its config and last checkpoint")
    parser.add_argument("--ckpt_path", metavar="FILE", help="another checkpoint: a file, or last or best of the run")
