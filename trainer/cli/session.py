"""One command line: its configs, its options, and what becomes of it."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from callbacks.checkpointing import RunCheckpoint
from callbacks.loggers.guarded import GuardedLogger
from trainer.cli.config_composition import PROJECT_CONFIGS, SECTIONS, Composed, compose, names_yaml
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.legacy_names import update_options
from utils.signals import Signals


@dataclass
class Session:
    """One command line and what becomes of it."""

    command: str
    argv: list[str]
    composed: Composed = field(default_factory=Composed)
    experiment: str = "unnamed"
    options: list[str] = field(default_factory=list)
    signals: Signals = field(default_factory=Signals)
    exits: ExitStack = field(default_factory=ExitStack)
    run: RunDirectory | None = None
    keeper: RunCheckpoint | None = None
    guarded_loggers: list[GuardedLogger] = field(default_factory=list)
    checkpoint: Path | None = None
    continued: bool = False  # the run was begun by an earlier command
    started: bool = False
    refused: bool = False  # by a sentence about what the user gave

    def __post_init__(self) -> None:
        names, parts, self.rest = split_configs(self.argv)
        run_dir = option(self.argv, "run_dir")
        self.composed = compose(names, parts)
        experiments = bool(names) and "model" in self.composed.values
        if run_dir and not experiments and RunDirectory(run_dir).config.is_file():
            names = [str(RunDirectory(run_dir).config), *names]  # such as logger/wandb.yaml, over the run's own
            self.composed = compose(names, parts)
        self.rest = update_options(self.rest, self.composed.values)
        if names:
            path = Path(names[0])
            # chairs.yaml with --model model/absorption.yaml is an experiment of its own: chairs_absorption.
            stems = [path.stem, *[Path(parts[section]).stem for section in SECTIONS if section in parts]]
            self.experiment = RunDirectory(path.parent).run_metadata.get("experiment") or "_".join(stems)

    @property
    def given(self) -> list[str]:
        """The keys given as options."""
        return [word.partition("=")[0].lstrip("-").removesuffix("+") for word in self.rest if word.startswith("--")]

    @property
    def asks_only(self) -> bool:
        """Whether help is all that is wanted."""
        return any(word in ("-h", "--help") or word.partition("=")[0].endswith(".help") for word in self.rest)

    def arguments(self) -> list[str]:
        """The command line with its configs composed into one, which options then override."""
        config = []
        if self.composed.values:  # as a file: jsonargparse takes a text with :// in it for an address
            path = Path(self.exits.enter_context(tempfile.TemporaryDirectory(prefix="unrender-"))) / "composed.yaml"
            path.write_text(self.composed.text(), encoding="utf-8")
            config = ["--config", str(path)]
        if not config and not self.asks_only and not any(key.startswith("model") for key in self.given):
            known = ", ".join(sorted(p.stem for p in PROJECT_CONFIGS.glob("*.yaml")))
            raise InputError(f"{self.command} needs --config NAME{'; the configs are ' + known if known else ''}")
        return [self.command, *config, *self.rest]


def split_configs(argv: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """The names given by ``--config`` or ``-c``, the parts given like ``--model x.yaml``, and all the other words."""
    names, parts, rest, words = [], {}, [], iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        section = flag.removeprefix("--")
        if flag in ("--config", "-c"):
            value = value if equals else next(words, "")
            if not value or value.startswith("-"):
                raise InputError("--config needs the name of a config")
            names.append(value)
        elif section in SECTIONS and flag != section:
            value = value if equals else next(words, "")
            if names_yaml(value):
                parts[section] = value
            else:
                rest.append(f"{flag}={value}")
        else:
            rest.append(word)
    return names, parts, rest


def option(argv: list[str], name: str) -> str | None:
    """The last value of ``--name`` on a command line."""
    value = None
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        if word == f"--{name}":
            value = following
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value
