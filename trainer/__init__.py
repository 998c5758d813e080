"""``python -m trainer``: the command line."""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("callbacks", "configs", "datamodules", "lightning_modules", "metrics"),
    *("networks", "renderers", "utils", "visualization"),
)


class _OwnPackages:
    """Finds the packages of this project beside ``trainer``, whatever else bears their names.

    ``python -m trainer`` searches the current directory first, and a ``utils.py`` there is common.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(ROOT)]) if name in PACKAGES else None


sys.meta_path.insert(0, _OwnPackages)
