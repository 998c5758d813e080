"""``completion``: a script that completes the command ``unrender`` in a shell, made by shtab from the commands' parsers."""

import argparse

import shtab

from trainer import parsers
from trainer.__main__ import COMMANDS

FILES = {"FILE": shtab.FILE, "NAME": shtab.FILE, "INPUT": shtab.FILE, "DIR": shtab.DIRECTORY, "RUN": shtab.DIRECTORY}


def main(argv: list[str]) -> int:
    """Print the script; returns the exit status."""
    options = parsers.parse(parsers.completion(), argv)
    if options is None:
        return 0
    print(shtab.complete(_whole_parser(), shell=options.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """One parser with every command under it."""
    parser = argparse.ArgumentParser("unrender")
    commands = parser.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, command in COMMANDS.items():
        own = getattr(parsers, name)()
        for action in own._actions:  # shtab asks each for what may stand there
            if action.metavar in FILES:
                action.complete = FILES[action.metavar]
        commands.add_parser(name, help=command.help, parents=[own], add_help=False)
    return parser
