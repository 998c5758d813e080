"""``python -m trainer COMMAND …``: the table of commands.

Each command is a function ``main(argv: list[str]) -> int`` in a module of its own, imported when it is asked for; its
options are those of the function of its name in :mod:`trainer.cli.arguments`, or of :mod:`trainer.cli.experiment_help` for
LightningCLI's. Help must not wait seconds for torch.
"""

import difflib
import importlib
import os
import sys
import time
from typing import NamedTuple

from trainer.cli import arguments, experiment_help
from trainer.cli.command_parser import CommandParser


class Command(NamedTuple):
    """One line of the table."""

    help: str
    target: str  # module:function, given the arguments after the command's name and returning the exit status


COMMANDS = {
    "fit": Command("train, or continue a training", "trainer.cli.lightning_cli:fit"),
    "validate": Command("print a checkpoint's metrics on the validation data", "trainer.cli.lightning_cli:validate"),
    "test": Command("print a checkpoint's metrics on the test data", "trainer.cli.lightning_cli:test"),
    "predict": Command("write shapes and images from a checkpoint", "trainer.cli.lightning_cli:predict"),
    "prepare": Command("draw the images that a training needs, before it", "trainer.commands.prepare:main"),
    "figures": Command("draw the papers' figures of a trained model and its data", "trainer.commands.figures:main"),
    "fid": Command("compare two folders of images by FID and KID", "trainer.commands.fid:main"),
    "shapes": Command("compare a run's voxel shapes with real ones", "trainer.commands.shape_metrics:main"),
    "table": Command("run and gather a table of the papers, beside their figures", "trainer.tables.command:main"),
    "export": Command("write samples of a run as 3D files", "trainer.commands.export:main"),
    "export-extractor": Command(
        "write a classifier's weights as FID's feature extractor", "trainer.commands.export_extractor:main"
    ),
    "render": Command("draw meshes, voxels or a config's shapes", "trainer.commands.render:main"),
    "view": Command("show and turn what a checkpoint generates, in the browser", "trainer.commands.view:main"),
    "compare": Command("put runs side by side on one page", "trainer.commands.compare:main"),
    "doctor": Command("say what works on this machine", "trainer.commands.doctor:main"),
    "completion": Command("print a script for the shell's completion", "trainer.commands.completion:main"),
}

EXAMPLES = """\
examples:
  python -m trainer fit --config demo.yaml --data.batch_size=8
  python -m trainer predict --run_dir runs/demo/001"""


def usage() -> str:
    """What ``--help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    more = "python -m trainer COMMAND --help lists a command's options."
    return "\n".join(
        ["usage: python -m trainer COMMAND [options]", "", "commands:", *lines, "", EXAMPLES, "", more],
    )


def options_of(name: str) -> CommandParser:
    """A command's options, with its help."""
    function = name.replace("-", "_")
    return getattr(experiment_help if hasattr(experiment_help, function) else arguments, function)()


def asks_for_help(words: list[str]) -> bool:
    """Whether a command's help is wanted; what stands after ``--`` is meant for others."""
    return any(word in ("-h", "--help") for word in words[: words.index("--") if "--" in words else None])


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 1 (a bug, with its traceback), 2 (the user's input), 3 (NaN).

    130 and 143 mean SIGINT and SIGTERM. docs/resume.md has more.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        cure = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: there is no command {name!r}; {cure}", file=sys.stderr)
        return 2
    if asks_for_help(rest):
        options_of(name).print_help()
        return 0
    module, function = COMMANDS[name].target.split(":")
    try:
        return getattr(importlib.import_module(module), function)(rest)
    except KeyboardInterrupt:  # while the libraries load; a command minds its signals itself
        return 130
    except ValueError as error:
        from utils.errors import InputError  # here, because it brings torch

        if not isinstance(error, InputError) or os.environ.get("UNRENDER_TRACEBACK"):
            raise
        complain(error.message)
        return 2


def complain(message: str, patience: float = 5.0) -> None:
    """Say on stderr what is wrong, once for all ranks.

    What is wrong on the first rank is wrong on the others as well, and whoever started them ends them, or has ended. A rank
    that is still there after ``patience`` seconds is alone with its error, and says it.
    """
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # torchrun, srun, Lightning
    rank = next((os.environ[name] for name in names if os.environ.get(name)), "0")
    if rank == "0":
        print(f"error: {message}", file=sys.stderr)
        return
    parent, until = os.getppid(), time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(0.05)
        if os.getppid() != parent:
            return
    print(f"error on rank {rank}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
