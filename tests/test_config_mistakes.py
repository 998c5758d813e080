"""Configs with a typo, a wrong type or a missing class: one sentence that names the key, status 2, no traceback.

``UNRENDER_ALL_MISTAKES=1`` tests every key of every config (minutes); otherwise three per config, sampled with a fixed seed.
"""

import copy
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from trainer.__main__ import main
from trainer.cli.config_composition import PROJECT_CONFIGS, compose

EXPERIMENTS = sorted(path.name for path in PROJECT_CONFIGS.glob("*.yaml"))
ALL = bool(os.environ.get("UNRENDER_ALL_MISTAKES"))
WRONG = {"no": "number"}  # accepted only by arguments that are free mappings
SAMPLE = 3


def keys(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys(value, (*prefix, key))


def at(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        values = values[key]
    return values


def typo(values: dict[str, Any], path: tuple[str, ...]) -> str:
    parent = at(values, path)
    parent[f"{path[-1]}q"] = parent.pop(path[-1])
    return path[-2] if path[-1] == "init_args" else f"{path[-1]}q"  # the message then names their parent


def wrong_type(values: dict[str, Any], path: tuple[str, ...]) -> str:
    at(values, path)[path[-1]] = copy.deepcopy(WRONG)
    return path[-1]


def missing_class(values: dict[str, Any], path: tuple[str, ...]) -> str:
    at(values, path)[path[-1]] = "nowhere.Class"
    return "nowhere.Class"


def mistakes(name: str, random: np.random.Generator) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield configs with one mistake each, the word that the message must contain, and a description of the mistake."""
    whole = compose([name]).values
    paths = list(keys(whole))
    chosen = paths if ALL else [paths[i] for i in random.permutation(len(paths))[:SAMPLE]]
    for path in chosen:
        for change in (missing_class,) if path[-1] == "class_path" else (typo, wrong_type):
            if change is wrong_type and isinstance(at(whole, path)[path[-1]], dict):
                continue
            values = copy.deepcopy(whole)
            word = change(values, path)
            yield values, word, f"{change.__name__} at {'.'.join(path)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_message_names_the_mistake(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for values, word, what in mistakes(name, np.random.default_rng(zlib.crc32(name.encode()))):
        (tmp_path / "mistaken.yaml").write_text(yaml.safe_dump(values))
        capsys.readouterr()
        status = main(["fit", "--config", "mistaken.yaml", "--print_config"])
        err = capsys.readouterr().err
        if status != 2 or err.count("\n") != 1 or not err.startswith("error: ") or word not in err:
            wrong.append(f"{what}: status {status}, {err[:300]!r}")
    assert not wrong, "\n".join(wrong)
