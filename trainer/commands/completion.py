"""``completion``: a script that completes the command ``unrender`` in a shell, made by shtab from the commands' parsers."""

import argparse

import shtab

from configs import FOLDER
from trainer.__main__ import COMMANDS, options_of
from trainer.cli import arguments
from trainer.cli.command_parser import parse

PROJECT = {  # names of the project's own, which bash offers beside files
    "config": [*FOLDER.glob("*.yaml"), *FOLDER.glob("logger/*.yaml"), *FOLDER.glob("speed/*.yaml")],
    "model": FOLDER.glob("model/*.yaml"),
    "data": FOLDER.glob("data/*.yaml"),
    "trainer": FOLDER.glob("trainer/*.yaml"),
}
OFFERED = {
    f"--{what}": sorted(path.relative_to(FOLDER).as_posix() for path in paths) for what, paths in PROJECT.items()
}
OFFERED["name"] = arguments.TABLES
FILES = {"FILE": shtab.FILE, "NAME": shtab.FILE, "INPUT": shtab.FILE, "DIR": shtab.DIRECTORY, "RUN": shtab.DIRECTORY}


def main(argv: list[str]) -> int:
    """Print the script; returns the exit status."""
    options = parse(arguments.completion(), argv)
    if options is None:
        return 0
    print(shtab.complete(_whole_parser(), options.shell, preamble=_functions() if options.shell == "bash" else ""))
    return 0


def _functions() -> str:
    """For bash: what completes each of :data:`OFFERED`."""
    return "\n".join(
        f'{_function(what)}() {{ compgen -W "{" ".join(names)}" -- "$1"; compgen -f -- "$1"; }}'
        for what, names in OFFERED.items()
    )


def _function(what: str) -> str:
    return f"_unrender_{what.lstrip('-')}"


def _whole_parser() -> argparse.ArgumentParser:
    """One parser with every command under it."""
    parser = argparse.ArgumentParser("unrender")
    commands = parser.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, command in COMMANDS.items():
        own = options_of(name)
        for action in own._actions:  # shtab asks each for what may stand there
            what = (action.option_strings or [action.dest])[0]
            if what in OFFERED:
                action.complete = shtab.FILE | {"bash": _function(what)}
            elif action.metavar in FILES:
                action.complete = FILES[action.metavar]
        commands.add_parser(name, help=command.help, parents=[own], add_help=False)
    return parser
