"""Check which settings of a resumed run changed: how and where it is executed may change, what it trains may not."""

from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace

from trainer.cli.config_composition import names_yaml
from trainer.cli.trainer_options import class_of
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError

EXECUTION_KEYS = ("checkpoint_minutes", "keep_checkpoints", "monitor", "mode")  # keys that may change, beside trainer.*
# Last parts of keys that may change: where things are, and what measures the run.
LOCATION_KEYS = ("num_workers", "cache_dir", "root", "path", "proxy_checkpoint", "extractor", "extractor_weights")
PROXY_KEY = "model.init_args.proxy_checkpoint"
# What never changes results, by beginning and by last part of a key, besides EXECUTION_KEYS.
WITHOUT_EFFECT = ("trainer.logger", "trainer.callbacks", "trainer.enable_progress_bar")
PLACES = ("num_workers", "cache_dir")
LENGTH_KEY = "data.init_args.total_kimg"


def changes(run: RunDirectory, settings: dict[str, Any]) -> list[str]:
    """How settings differ from the run's ``config.yaml``, as phrases such as ``trainer.devices 2 (was 1)``.

    Model, data and seed must not change. A run may become longer, not shorter. A changed proxy is not reported: a run
    keeps the proxy that it was started with, see :func:`known_proxy`.

    Args:
        run: The run to resume.
        settings: All settings of this start.

    Raises:
        InputError: A setting that must not change differs; the message names the first one. Or the run would become
            longer, but its learning rate falls to 0 at its end.
    """
    before, now = dict(leaves(run.settings)), dict(leaves(settings))
    changed = _changed(before, now)
    allowed = {
        key for key in changed if key.startswith("trainer.") or key in EXECUTION_KEYS or last_part(key) in LOCATION_KEYS
    }
    if is_longer(run, settings):
        if _decays_over_run(settings["model"]):
            raise InputError(
                f"the learning rate of {run.path} falls to 0 at its {before[LENGTH_KEY]:g} kimg, so it cannot become "
                "longer; train the longer run in another --run_dir, or start over with --fresh"
            )
        allowed.add(LENGTH_KEY)
    for key, (old, new) in changed.items():
        if key not in allowed:
            raise InputError(
                f"{run.path} was started with {key} {_shorten(old)}, not {_shorten(new)}; drop this change to resume it, "
                "choose another --run_dir, or start over with --fresh"
            )
    return [f"{key} {_shorten(new)} (was {_shorten(old)})" for key, (old, new) in changed.items() if key != PROXY_KEY]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys that both have with other values, and those that are a value on one side and have keys below on the other.

    Of the latter the class, if they have one, stands for the keys below, as in ``augment: null`` and an ``augment`` with a
    ``class_path``.
    """
    changed = {key: (before[key], value) for key, value in now.items() if key in before and before[key] != value}
    for one, other in ((before, now), (now, before)):
        for key in one.keys() & {parent for below in other if below not in one for parent in _parents(below)}:
            values = one[key], other.get(f"{key}.class_path", "other keys")
            changed[key] = values if one is before else values[::-1]
    return changed


def _parents(key: str) -> Iterator[str]:
    while key := key.rpartition(".")[0]:
        yield key


def differences(run: RunDirectory, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the run's ``config.yaml`` and may change its results, by dotted key.

    Settings that the run's version did not have yet are not compared, unless they belong to another class.
    """
    before, now = dict(leaves(run.settings)), dict(leaves(settings))
    changed = {key for key in _changed(before, now) if key in now}
    changed |= {key for key in now if key not in before and any(parent in before for parent in _parents(key))}
    classes = tuple(key.removesuffix("class_path") for key in changed if key.endswith("class_path"))
    changed |= {key for key in now if classes and key not in before and key.startswith(classes)}
    changed = {key for key in changed if not key.startswith(WITHOUT_EFFECT) and key not in EXECUTION_KEYS}
    return {key: now[key] for key in sorted(changed) if last_part(key) not in PLACES}


def is_longer(run: RunDirectory, settings: dict[str, Any]) -> bool:
    """Whether settings make the run longer than its ``config.yaml`` does."""
    before, now = (dict(leaves(values)).get(LENGTH_KEY) for values in (run.settings, settings))
    return isinstance(before, int | float) and isinstance(now, int | float) and now > before


def _decays_over_run(model: dict[str, Any]) -> bool:
    chosen: Any = class_of(Namespace(**model))
    return getattr(chosen, "decays_over_run", False) and model["init_args"].get("decay_learning_rate", True)


def known_proxy(run: RunDirectory) -> str | None:
    """The proxy checkpoint that the run was started with. A config of a proxy, which ``fit`` never saves, is ignored."""
    proxy = dict(leaves(run.settings)).get(PROXY_KEY)
    return proxy if isinstance(proxy, str) and not names_yaml(proxy) else None


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; a list is one value."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))


def last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
