"""``python -m trainer COMMAND …``: dispatch to the commands.

Each command is a function ``main(argv: list[str]) -> int`` that returns the exit status. Its module is imported only when
the command runs, since importing torch takes seconds; its options and help are in :mod:`trainer.cli.arguments`.
"""

import difflib
import errno
import importlib
import io
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from trainer.cli import arguments
from trainer.cli.argument_types import expand_home
from trainer.cli.command_parser import CommandParser
from utils import closed_pipes
from utils.early_signals import Interrupts
from utils.errors import InputError
from utils.launch import launch
from utils.memory import reuse_freed_memory


class Command(NamedTuple):
    """One command: its help and the function that runs it, as ``module:function``."""

    help: str
    target: str


COMMANDS = {
    "fit": Command("train a model, or resume a run", "trainer.cli.lightning_cli:fit"),
    "validate": Command("print a checkpoint's metrics on the validation data", "trainer.cli.lightning_cli:validate"),
    "test": Command("print a checkpoint's metrics on the test data", "trainer.cli.lightning_cli:test"),
    "predict": Command("write shapes and images from a checkpoint", "trainer.cli.lightning_cli:predict"),
    "prepare": Command("render and cache the images that a training needs", "trainer.commands.prepare:main"),
    "figures": Command("render the papers' figures of a trained model and its data", "trainer.commands.figures:main"),
    "fid": Command("compare two folders of images by FID, spatial FID and KID", "trainer.commands.fid:main"),
    "shapes": Command("compare a run's voxel shapes with real ones", "trainer.commands.shape_metrics:main"),
    "table": Command("run the experiments of a table of the papers", "trainer.tables.command:main"),
    "export": Command("write samples of a run as 3D files", "trainer.commands.export:main"),
    "publish": Command("write a run's generator as one small file", "trainer.commands.publish:main"),
    "invert": Command("find the shapes and viewpoints of images", "trainer.commands.invert:main"),
    "export-extractor": Command(
        "write a classifier's weights as FID's feature extractor", "trainer.commands.export_extractor:main"
    ),
    "render": Command("render meshes, voxels or a config's shapes", "trainer.commands.render:main"),
    "view": Command("open an interactive 3D viewer of a checkpoint's samples", "trainer.commands.view:main"),
    "compare": Command("compare runs on one page", "trainer.commands.compare:main"),
    "doctor": Command("check what works on this machine", "trainer.commands.doctor:main"),
    "completion": Command("print a shell completion script", "trainer.commands.completion:main"),
}


def usage() -> str:
    """The text of ``--help``."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return f"""\
usage: python -m trainer COMMAND [options]

commands:
{commands}

examples:
  python -m trainer fit --config demo.yaml --data.batch_size=8
  python -m trainer predict --run_dir runs/demo/001
  python -m trainer view --run_dir pretrained/chairs

python -m trainer COMMAND --help lists a command's options."""


def options_of(name: str) -> CommandParser:
    """The parser of a command, which prints its help."""
    return getattr(arguments, name.replace("-", "_"))()


def help_requested(words: list[str]) -> bool:
    """Whether ``--help`` is among the options; those after ``--`` are passed on to other commands."""
    return any(word in ("-h", "--help") for word in words[: words.index("--") if "--" in words else None])


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0: success. 1: a bug, with its traceback. 2: invalid input, with a one-sentence error. 3: NaN in training. 130 and 143:
    stopped by SIGINT or SIGTERM. 141: stopped because nobody reads the output any more. See docs/resume.md.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may not be UTF-8; stderr escapes them by default
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        if not closed_pipes.reader_is_gone():  # another pipe
            raise
        closed_pipes.discard_output()
        return closed_pipes.STATUS
    return status


def _run(argv: list[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = map(expand_home, argv)
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {similar[0]}?" if similar else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: no such command {name!r}; {hint}", file=sys.stderr)
        return 2
    if help_requested(rest):
        options_of(name).print_help()
        return 0
    module, function = COMMANDS[name].target.split(":")
    reuse_freed_memory()
    command = getattr(importlib.import_module(module), function)
    with Interrupts() as interrupts:
        try:
            return command(rest)
        except KeyboardInterrupt:  # of commands that have nothing to save
            return 130
        except Exception as error:
            if interrupts.received:  # libraries that are being imported replace a KeyboardInterrupt by another error
                return 130
            message = _user_message(error)
            if message is None or os.environ.get("UNRENDER_TRACEBACK"):
                raise
            print_error(message)
            return 2


def _user_message(error: Exception) -> str | None:
    """The message about an error that the user can fix; None for any other error."""
    if isinstance(error, InputError):
        return error.message
    if isinstance(error, OSError):
        from trainer.cli.run_errors import disk_error

        if disk := disk_error(error):
            return "; ".join(disk)
        if error.errno == errno.ENAMETOOLONG:  # also raised where a path is only looked up
            return f"no such file or directory: {str(error.filename)[:60]}… (its name is too long); pass another path"
    return None


def script() -> int:
    """Entry point of ``unrender``. Classes are also found in the current directory, unless a package has their name."""
    sys.path.append(str(Path.cwd()))
    return main()


def print_error(message: str, timeout: float = 5.0) -> None:
    """Print an error once for all ranks.

    An error of rank 0 is usually that of the other ranks too, and their launcher ends them. Another rank prints its error
    only if it is still running after ``timeout`` seconds, since then it is the only one that failed.
    """
    rank = launch().rank
    if rank == 0:
        print(f"error: {message}", file=sys.stderr)
        return
    parent, deadline = os.getppid(), time.monotonic() + timeout
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if os.getppid() != parent:
            return
    print(f"error on rank {rank}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
