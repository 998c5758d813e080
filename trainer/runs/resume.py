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
    before = dict(_leaves(run.settings))
    changed = {key: value for key, value in _leaves(settings) if key in before and before[key] != value}
    allowed = {
        key for key in changed if key.startswith("trainer.") or key in EXECUTION_KEYS or _last(key) in LOCATION_KEYS
    }
    if is_longer(run, settings):
        if _decays_over_run(settings["model"]):
            raise InputError(
                f"the learning rate of {run.path} falls to 0 at its {before[LENGTH_KEY]:g} kimg, so it cannot become "
                "longer; train the longer run in another --run_dir, or start over with --fresh"
            )
        allowed.add(LENGTH_KEY)
    for key, value in changed.items():
        if key not in allowed:
            raise InputError(
                f"{run.path} was started with {key} {_shorten(before[key])}, not {_shorten(value)}; drop this change to "
                "resume it, choose another --run_dir, or start over with --fresh"
            )
    return [f"{key} {_shorten(changed[key])} (was {_shorten(before[key])})" for key in changed if key != PROXY_KEY]


def differences(run: RunDirectory, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that differ from the run's ``config.yaml`` and may change its results, by dotted key.

    Settings that the run's version did not have yet are not compared, unless they belong to another class.
    """
    before, now = dict(_leaves(run.settings)), dict(_leaves(settings))
    changed = {key for key, value in now.items() if key in before and before[key] != value}
    classes = tuple(key.removesuffix("class_path") for key in changed if key.endswith("class_path"))
    changed |= {key for key in now if classes and key not in before and key.startswith(classes)}
    changed = {key for key in changed if not key.startswith(WITHOUT_EFFECT) and key not in EXECUTION_KEYS}
    return {key: now[key] for key in sorted(changed) if _last(key) not in PLACES}


def is_longer(run: RunDirectory, settings: dict[str, Any]) -> bool:
    """Whether settings make the run longer than its ``config.yaml`` does."""
    before, now = (dict(_leaves(values)).get(LENGTH_KEY) for values in (run.settings, settings))
    return isinstance(before, int | float) and isinstance(now, int | float) and now > before


def _decays_over_run(model: dict[str, Any]) -> bool:
    chosen: Any = class_of(Namespace(**model))
    return getattr(chosen, "decays_over_run", False) and model["init_args"].get("decay_learning_rate", True)


def known_proxy(run: RunDirectory) -> str | None:
    """The proxy checkpoint that the run was started with. A config of a proxy, which ``fit`` never saves, is ignored."""
    proxy = dict(_leaves(run.settings)).get(PROXY_KEY)
    return proxy if isinstance(proxy, str) and not names_yaml(proxy) else None


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key; a list is one value."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
