"""What a run that goes on may change: how it is carried out, and where things lie, but not what it is."""

from collections.abc import Iterator
from typing import Any

from utils.errors import InputError
from trainer.runs.run_directory import RunDirectory

# What says how a run is carried out, not what it is: it may change from start to start, and is then said.
HOW = ("trainer.", "checkpoint_minutes", "keep_checkpoints")
PLACES = ("num_workers", "cache_dir", "root", "path", "proxy_checkpoint", "extractor_weights")
PROXY = ("model", "init_args", "proxy_checkpoint")
LENGTH = "data.init_args.total_kimg"


def changes(run: RunDirectory, settings: dict[str, Any]) -> list[str]:
    """How this start differs from the run's ``config.yaml``, in words such as ``trainer.devices 2 (was 1)``.

    Model, data and seed may not: the run would be neither the one nor the other. It may become longer, not shorter. Of
    the proxy nothing is said: a run keeps the checkpoint that it began with, see :func:`known_proxy`.

    Args:
        run: with its config.
        settings: of this start, all keys.

    Raises:
        InputError: they contradict the run; the first key is named.
    """
    before = dict(_leaves(run.settings))
    differ = {key: value for key, value in _leaves(settings) if key in before and before[key] != value}
    taken = {key for key in differ if key.startswith(HOW) or key.rpartition(".")[2] in PLACES}
    if longer(run, settings):
        taken.add(LENGTH)
    for key, value in differ.items():
        if key not in taken:
            raise InputError(
                f"{run.path} was begun with {key} {_shown(before[key])}, not {_shown(value)}; leave that out to go on "
                "with it, name another --run_dir, or start anew by --fresh"
            )
    return [f"{key} {_shown(differ[key])} (was {_shown(before[key])})" for key in differ if key != ".".join(PROXY)]


def longer(run: RunDirectory, settings: dict[str, Any]) -> bool:
    """Whether this start makes the run longer than its ``config.yaml`` has it."""
    before, now = (dict(_leaves(values)).get(LENGTH) for values in (run.settings, settings))
    return isinstance(before, int | float) and isinstance(now, int | float) and now > before


def known_proxy(run: RunDirectory) -> str | None:
    """The proxy's checkpoint that the run began with."""
    value: Any = run.settings
    for key in PROXY:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; a list is one value."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
