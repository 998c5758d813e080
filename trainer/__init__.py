"""The command line of the project, and ``load_run``, which loads a run's generator."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("callbacks", "configs", "datamodules", "lightning_modules", "metrics"),
    *("networks", "renderers", "utils", "visualization"),
)


class _ProjectFinder:
    """Finds this project's packages first.

    ``python -m trainer`` searches the current directory first, where a user may have a ``utils.py``.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(ROOT)]) if name in PACKAGES else None


def _is_command() -> bool:
    """Whether this process was started as ``python -m trainer`` or ``unrender``; runpy has not set sys.argv[0] yet."""
    module = sys.argv[:1] == ["-m"] and ("-m", "trainer") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return module or Path(sys.argv[0] if sys.argv else "").name == "unrender"


sys.meta_path.insert(0, _ProjectFinder)
if _is_command():  # importing torch takes seconds, in which the user may press Ctrl-C
    from utils.early_signals import exit_at_signals

    exit_at_signals()


def __getattr__(name: str) -> Any:
    """Import :func:`trainer.runs.loading.load_generator` as ``load_run`` when it is used, since torch takes seconds."""
    if name == "load_run":
        from trainer.runs.loading import load_generator

        return load_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
