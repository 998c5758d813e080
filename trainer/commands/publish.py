"""``publish``: write the trained generator of a run as one small file that other commands with ``--run_dir`` read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path, PurePath
from typing import Any

from callbacks.metrics_log import read_metrics
from trainer.cli import arguments
from trainer.cli.config_composition import PROJECT_CONFIGS
from trainer.cli.config_yaml import parse_yaml
from trainer.runs import published
from trainer.runs.loading import LoadedRun, load_generator
from trainer.runs.published import PublishedRun
from utils.errors import InputError
from utils.files import check_replaceable

LOCATION_OPTIONS = ("--run_dir", "--ckpt_path")  # of fit: where it wrote has no effect on the weights
VERSIONS = ("unrender", "git", "torch")
_OPTION = re.compile(r"[\w.+-]+=")
_NOT_A_PATH = re.compile(r"(?:https?|s3|gs)://[^\s,;]*|[\d.]+/[\d.]+")  # URLs and ratios


def main(argv: list[str]) -> int:
    """Write the file and print its size and origin; return the exit status.

    Raises:
        InputError: Invalid options, or a run that cannot be loaded or published.
    """
    options = arguments.publish().parse_args(argv)
    check_replaceable(options.out, published.is_published, "a published generator", "--out")
    run = load_generator(options.run_dir, options.ckpt_path, device="cpu", trust=options.trust)
    if isinstance(run.folder, PublishedRun):
        raise InputError(f"{options.run_dir} is published already; copy the file")
    note = origin(run)
    published.publish(options.out, run.module, run.folder.compose().values, note)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {type(run.module).__name__} of {run.name}, {run.module.kimg:g} kimg, {size:.1f} MB")
    return 0


def origin(run: LoadedRun) -> dict[str, Any]:
    """Describe where a run's weights come from: experiment, command lines, seed, position, versions, and the metrics of the
    last evaluation up to there.
    """
    folder, module = run.folder, run.module
    evaluations = [line for line in read_metrics(folder.path) if line["step"] <= module.step]
    return {
        "experiment": folder.metadata.get("experiment", folder.path.resolve().parent.name),
        "method": type(module).__name__,
        "kimg": module.kimg,
        "step": module.step,
        "seed": folder.settings.get("seed_everything"),
        "commands": [_without_locations(words) for words in folder.commands()],
        "versions": {name: folder.versions[name] for name in VERSIONS if name in folder.versions},
        "metrics": {key: value for line in evaluations[-1:] for key, value in line.items() if key != "seconds"},
    }


def _without_locations(command: list[str]) -> str:
    """The words of a command as one line without the directories of the machine that it ran on."""
    words = iter(command)
    kept = []
    for word in words:
        option, equals, _ = word.partition("=")
        if option not in LOCATION_OPTIONS:
            start = match[0] if (match := _OPTION.match(word)) else ""
            kept.append(start + _without_directories(word.removeprefix(start)))
        elif not equals:
            next(words, None)
    return shlex.join(kept)


def _without_directories(value: Any) -> Any:
    """A value with each path in it reduced to its last part, except names of the project's configs."""
    if isinstance(value, dict):
        return {_without_directories(key): _without_directories(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_directories(item) for item in value]
    if not isinstance(value, str) or not {"/", "\\"} & set(value) or _NOT_A_PATH.fullmatch(value):
        return value
    if value.startswith(("{", "[")):
        try:
            values = parse_yaml(f"value: {value}", Path("command.txt"))["value"]
            # Always written anew: comments of the original may contain paths too.
            return json.dumps(_without_directories(values), ensure_ascii=False)
        except (InputError, TypeError):  # not YAML, or no JSON value; then nothing before the last separator is kept
            pass
    configs = {path.relative_to(PROJECT_CONFIGS).with_suffix("").as_posix() for path in PROJECT_CONFIGS.rglob("*.yaml")}
    return value if value.removesuffix(".yaml") in configs else PurePath(value.replace("\\", "/")).name
