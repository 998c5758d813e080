"""What the files of a run may do: a run directory may come from somebody else, and its config names classes to load.

Without ``--trust``, a run's config may name only classes of this project, of ``torch.nn`` and ``torch.optim``, and of the
parts of Lightning that a trainer takes (:data:`ALLOWED`). What counts is where a class is defined, not where it can be
imported from. docs/trust.md is the policy in the user's words.
"""

import inspect
import os
import pkgutil
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
from pytorch_lightning import Callback, LightningDataModule
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from datamodules.shapes import ShapeSource
from trainer.cli.jsonargparse_compat import DENIED_BY_DEFAULT, import_policy
from utils.errors import InputError

PROJECT = ("callbacks", "datamodules", "lightning_modules", "metrics", "networks", "renderers")
LIGHTNING = ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
ALLOWED = (
    *PROJECT,
    *("torch.nn", "torch.optim"),
    *(f"pytorch_lightning.{name}" for name in LIGHTNING),
    *("lightning_fabric.accelerators", "lightning_fabric.plugins"),
)
# Calls any function, and loggers that send data to a server that the config names.
REFUSED = (
    "pytorch_lightning.callbacks.lambda_function",
    *(f"pytorch_lightning.loggers.{name}" for name in ("comet", "litlogger", "mlflow", "neptune", "wandb")),
)
KINDS = (
    *(nn.Module, Optimizer, LRScheduler, LightningDataModule, ShapeSource, Callback, Logger),
    *(Strategy, Accelerator, Precision, LayerSync, ClusterEnvironment, CheckpointIO, Profiler),
)
CLASS_PATH = re.compile(r"(?<![\w./-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w./-])")
RUN_KEYS = ("config", "run_dir", "ckpt_path", "fresh", "trust")  # of a command line, never of a run's config
SHOWN = 3  # names in a message
REASON = (
    "without --trust, a run loads only parts of unrender, torch and Lightning, because others can run any code; pass "
    "--trust if you trust the run"
)


def is_run_config(path: Path, run_dir: str | Path | None = None) -> bool:
    """Whether a config file is that of a run: of ``run_dir``, or of a directory with the files that ``fit`` writes."""
    of_run_dir = run_dir is not None and path.parent.resolve() == Path(run_dir).resolve()
    return path.name == "config.yaml" and (of_run_dir or (path.parent / "run.json").exists())


def check_class_paths(values: dict[str, Any], trust: bool, source: str) -> None:
    """Check that a config names only classes that may be loaded from an untrusted source.

    Nothing outside of :data:`ALLOWED` is imported. Names that are not written as a ``class_path`` in these values, such as
    functions and those in files that the values name, are refused by :func:`restricted_imports`, under which the config has
    to be parsed and instantiated.

    Args:
        values: A config, or a part of one.
        trust: The user's ``--trust``: nothing is checked.
        source: The file, for the message.

    Raises:
        InputError: The config names other classes, or an option of the command line.
    """
    if trust:
        return
    if names := list(dict.fromkeys(name for name in _class_paths(values) if not _is_allowed(name))):
        others = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise InputError(f"{source} names {', '.join(map(_shorten, names[:SHOWN]))}{others}; {REASON}")
    if keys := [key for key in RUN_KEYS if key in values]:
        raise InputError(f"{source} has the key {keys[0]}, which is an option of the command line; remove it")


def check_links(folder: Path, trust: bool) -> None:
    """Check that a run has no symbolic link to the outside, through which files could be read or overwritten.

    Raises:
        InputError: Naming the first link.
    """
    if trust:
        return
    root = folder.resolve()
    for parent, directories, files in os.walk(root):
        if Path(parent) == root / "wandb":  # links to its log files elsewhere; no command reads or overwrites them
            directories.clear()
            continue
        for name in (*directories, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                shown = folder / path.relative_to(root)
                raise InputError(
                    f"{shown} is a link to a file outside of the run; remove it, or pass --trust to follow it"
                )


@contextmanager
def restricted_imports(words: Iterable[str] = (), *, trust: bool = False) -> Iterator[None]:
    """Within it, configs that are parsed can name only :data:`ALLOWED` and the packages that the user names.

    Args:
        words: The user's own options and configs.
        trust: The user's ``--trust``: there is no limit.
    """
    if trust:
        yield
        return
    named = {match.partition(".")[0] for word in words for match in CLASS_PATH.findall(word)}
    named -= {*DENIED_BY_DEFAULT, *(path.partition(".")[0] for path in ALLOWED), "lightning", "trainer", "utils"}
    with import_policy(allowed=[*ALLOWED, *named], denied=["*", *REFUSED]):
        yield


def needs_trust(values: dict[str, Any]) -> bool:
    """Whether a config names classes that are loaded only with ``--trust``."""
    return not all(map(_is_allowed, _class_paths(values)))


def _class_paths(value: Any) -> Iterator[str]:
    """Every ``class_path`` with a module. Names without one are looked up among the classes that are imported already."""
    if isinstance(value, dict):
        path = value.get("class_path")
        if isinstance(path, str) and "." in path:
            yield path
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _class_paths(item)


def _is_allowed(name: str) -> bool:
    """Whether a name is that of an allowed class, or of nothing at all in an allowed package."""
    if not _has_allowed_prefix(name):
        return False
    try:
        part = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return True  # the parser says that there is no such class, and suggests others
    defined = f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}"
    if not inspect.isclass(part) or not _has_allowed_prefix(defined):
        return False
    return issubclass(part, KINDS) or (is_dataclass(part) and defined.partition(".")[0] in PROJECT)


def _has_allowed_prefix(name: str) -> bool:
    def matches(prefixes: Iterable[str]) -> bool:
        return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)

    return matches(ALLOWED) and not matches(REFUSED)


def _shorten(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
