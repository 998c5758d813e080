"""The state of one LightningCLI command: its composed config, its options, and how it ends."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.checkpointing import RunCheckpoint
from callbacks.loggers.guarded import GuardedLogger
from trainer.cli.config_composition import (
    KEYS,
    PROJECT_CONFIGS,
    SECTIONS,
    Composed,
    compose,
    find_config,
    names_yaml,
    suggestion,
)
from trainer.cli.trust import check_class_paths, check_links, is_run_config, restricted_imports
from trainer.runs.published import PublishedRun, find_file, named_run
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError
from utils.files import write_text
from utils.legacy_names import update_options
from utils.signals import Signals

FLAGS = ("--fresh", "--trust", "--print_config")  # options without a value


@dataclass
class Session:
    """One command line and the state of its execution.

    Args:
        command: Name of the command.
        argv: The words after it.
        signals: Signals that this process received.
        exits: Contexts to leave when the command ends.
        notes: What to print when the rank of this process is known.
    """

    command: str
    argv: list[str]
    signals: Signals = field(default_factory=Signals)
    exits: ExitStack = field(default_factory=ExitStack)
    notes: list[str] = field(default_factory=list)
    composed: Composed = field(init=False)
    given_run: RunDirectory | None = field(init=False, default=None)  # of --run_dir
    experiment: str = field(init=False, default="unnamed")
    trust: bool = field(init=False, default=False)  # the option --trust
    restricted: bool = field(init=False, default=False)  # the config is that of a run that is not trusted
    options: list[str] = field(init=False, default_factory=list)  # all option names of the command
    run: RunDirectory | None = field(init=False, default=None)  # of a training, on rank 0
    checkpointing: RunCheckpoint | None = field(init=False, default=None)
    guarded_loggers: list[GuardedLogger] = field(init=False, default_factory=list)
    checkpoint: Path | None = field(init=False, default=None)
    resumed: bool = field(init=False, default=False)
    started: bool = field(init=False, default=False)
    progress: tuple[int, int | None] | None = field(
        init=False, default=None
    )  # steps done and planned, after a training
    options_changed: dict[str, Any] = field(init=False, default_factory=dict)  # those that differ from the run's
    input_error: bool = field(init=False, default=False)  # the command ended by an InputError

    def __post_init__(self) -> None:
        names, parts, self.rest = split_configs(self.argv)
        self.trust = "--trust" in self.rest
        run_dir = last_value(self.argv, "run_dir")
        if self.command == "fit" and run_dir and find_file(run_dir):
            raise InputError(
                f"--run_dir {run_dir} is a file, not a directory; published generators have neither the discriminator nor "
                "the optimizers that fit needs"
            )
        if run_dir == "":
            raise InputError("--run_dir needs the name of a directory, got an empty one")
        if run_dir:
            self.given_run = named_run(run_dir, last_value(self.argv, "ckpt_path"))
        self.composed = compose(names, parts)
        has_experiment = bool(names) and "model" in self.composed.values
        if self.given_run and not has_experiment and self.given_run.config.is_file():
            self.composed = self.given_run.compose(names, parts)  # merge files such as logger/wandb.yaml over the run's
            names = [str(self.given_run.config), *names]
        self._check_runs(run_dir, names, parts)
        self.rest = update_options(self.rest, self.composed.values)
        if names:
            path = Path(names[0])
            # chairs.yaml with --model model/absorption.yaml is the experiment chairs_absorption
            stems = [path.stem, *[Path(parts[section]).stem for section in SECTIONS if section in parts]]
            self.experiment = RunDirectory(path.parent).experiment or "_".join(stems)

    def _check_runs(self, run_dir: str | None, names: list[str], parts: dict[str, str]) -> None:
        """Check the run directories that the command opens, unless they are trusted, and limit what their configs load."""
        published = str(self.given_run.config) if isinstance(self.given_run, PublishedRun) else None  # checked already
        runs = [name for name in names if name == published or is_run_config(find_config(name), run_dir)]
        own = [name for name in names if name not in runs]
        for name in runs:
            if name != published:
                check_class_paths(compose([name]).values, self.trust, name)
        if run_dir and not published:
            check_links(Path(run_dir), self.trust)
        self.restricted = len(own) < len(names) and not self.trust
        if self.restricted:
            words = [compose(own, parts).text(), *_section_options(self.rest)]
            self.exits.enter_context(restricted_imports(words))

    @property
    def complete(self) -> bool:
        """Whether the command did all that it had to: a training, the steps that its data module plans."""
        done, planned = self.progress or (0, 0)
        return planned is not None and done >= planned

    @property
    def given(self) -> list[str]:
        """The keys given as options."""
        return [word.partition("=")[0].lstrip("-").removesuffix("+") for word in self.rest if word.startswith("--")]

    @property
    def help_requested(self) -> bool:
        return any(word in ("-h", "--help") or word.partition("=")[0].endswith(".help") for word in self.rest)

    def arguments(self) -> list[str]:
        """The command line with its configs replaced by the composed one."""
        config = []
        if self.composed.values:  # as a file: jsonargparse takes text that contains :// for a URL
            path = Path(self.exits.enter_context(tempfile.TemporaryDirectory(prefix="unrender-"))) / "composed.yaml"
            write_text(path, self.composed.text())
            config = ["--config", str(path)]
        if not config and not self.help_requested and not {"model", "model.class_path"}.intersection(self.given):
            _check_words(self.rest)
            run_dir = last_value(self.argv, "run_dir")
            if run_dir and self.command != "fit":
                raise InputError(f"--run_dir {run_dir} is not a run directory: it has no config.yaml")
            if run_dir and RunDirectory(run_dir).holds_run():
                raise InputError(
                    f"{run_dir} has no config.yaml; pass --config NAME and the options that started the run"
                )
            if run_dir:
                raise InputError(f"fit needs --config NAME for a new run, since {run_dir} holds none")
            if self.command != "fit":
                raise InputError(f"{self.command} needs --config NAME, or --run_dir RUN for a run created by fit")
            known = ", ".join(sorted(p.stem for p in PROJECT_CONFIGS.glob("*.yaml")))
            raise InputError(f"fit needs --config NAME{'; the configs are ' + known if known else ''}")
        return [self.command, *config, *self.rest]


def split_configs(argv: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Split words into the names given by ``--config``, the parts given like ``--model x.yaml``, and the rest."""
    names: list[str] = []
    parts: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
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


def _check_words(words: list[str]) -> None:
    """Check the words of a command line without a config, which are not parsed.

    Raises:
        InputError: A word that is not an option, such as a config without ``--config``.
    """
    known = {f"--{key}" for key in (*KEYS, "config")}
    takes_value = False  # whether the next word may be the value of an option
    for word in words:
        option, equals, _ = word.partition("=")
        section = option.partition(".")[0]
        if takes_value and not word.startswith("--"):
            takes_value = False
        elif not word.startswith("-"):
            meant = "run_dir" if Path(word).is_dir() else "config"
            raise InputError(f"{word} is not an option; did you mean --{meant} {word}?")
        elif section not in (*known, *FLAGS):
            raise InputError(f"no such option {option}{suggestion(section, known, 'the options are')}")
        else:
            takes_value = not equals and section not in FLAGS


def _section_options(words: list[str]) -> list[str]:
    """The options of the config's sections and their values."""
    pairs = zip(words, [*words, ""][1:], strict=False)
    sections = tuple(f"--{section}" for section in SECTIONS)
    return [word if "=" in word else f"{word} {value}" for word, value in pairs if word.startswith(sections)]


def last_value(argv: list[str], name: str) -> str | None:
    """The last value of ``--name`` on a command line."""
    value = None
    for word, following in zip(argv, [*argv, None][1:], strict=True):
        if word == f"--{name}":
            value = following
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value
