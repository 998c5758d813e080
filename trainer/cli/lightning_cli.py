"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with our look-up, run folders, signals and error sentences.

``trainer.cli.config_composition`` tells how configs compose. Options beside those of LightningCLI:

- ``--run_dir``: where ``fit`` writes (``runs/<config>/<NNN>`` if not given). For the others, a run that ``fit`` made:
  its config and last checkpoint are taken unless named, and they write to a subfolder of the command's name.
  ``fit`` goes on with a run that is there, as ``trainer.runs.resume`` tells; ``--fresh`` moves it aside and starts anew.
- ``--ckpt_path``: a file, or ``last`` or ``best`` of the run.
- ``--checkpoint_minutes``: ``last.ckpt`` is written so often, after each evaluation, at the end, and when SIGINT or SIGTERM
  stops the training. ``--keep_checkpoints``: how many more to keep.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from callbacks import nan_guard
from callbacks.checkpointing import RunCheckpoint
from callbacks.distributed_signals import RankSignals
from callbacks.loggers.csv import MetricsCsv
from callbacks.loggers.guarded import GuardedLogger
from callbacks.nan_guard import DivergedError, TerminateOnNaN
from trainer.__main__ import COMMANDS
from trainer.cli import error_messages
from trainer.cli.jsonargparse_compat import PARSER_MODE, yaml_word
from trainer.cli.log_filters import quiet
from trainer.cli.session import Session
from trainer.runs import checkpoints, resume
from trainer.runs.proxy_pretraining import KEY as PROXY
from trainer.runs.proxy_pretraining import provide_proxy
from trainer.runs.run_directory import RUNS, RunDirectory, newest_run, run_of
from trainer.runs.run_lock import heartbeat
from trainer.runs.shutdown import close, diverged, explain, print_rank0, stopped
from utils.errors import InputError
from utils.signals import Signals, Stopped

OWN_OPTIONS = ("run_dir", "ckpt_path", "fresh", "config")  # about this start, not about the experiment
PARSER = {"parser_mode": PARSER_MODE, "allow_abbrev": False, "dump_header": None}
WANDB = ("WandbRun", "WandbLogger")  # the loggers that go on with a run by its id
RANK_FOLDER = "UNRENDER_RUN_DIR"  # how the first process tells the others where the run lies


class _Parser(LightningArgumentParser):
    """Raises instead of printing a wall and leaving."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        if not self.exit_on_error:  # one of jsonargparse's inner trials
            super().error(message, ex)
        raise error_messages.ParseError(message) from ex

    def parse_args(self, args: list[str] | None = None, *more: Any, **options: Any) -> jsonargparse.Namespace:
        if not self.exit_on_error and args:
            args = [yaml_word(word) for word in args]
        return super().parse_args(args, *more, **options)


def _description(command: str) -> dict[str, str]:
    more = "--model.help CLASS and --data.help CLASS list the arguments of what --config names."
    return {
        "usage": f"python -m trainer {command} --config NAME [--config MORE] [--model.ARGUMENT=VALUE] [options]",
        "description": f"{COMMANDS[command].help.capitalize()}. {more}",
    }


class UnrenderCLI(LightningCLI):
    """LightningCLI for one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_defaults={"enable_model_summary": False},
            seed_everything_default=0,
            parser_class=_Parser,
            parser_kwargs=PARSER | {name: PARSER | _description(name) for name in self.subcommands()},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=session.arguments(),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        always = {"ckpt_path", "weights_only", "return_predictions"}  # one is ours, the others are not for choosing
        return {name: skipped | always for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str | None, help="The run's folder (fit: runs/<config>/<NNN>; others: a run made by fit)."
        )
        parser.add_argument("--ckpt_path", type=str | None, help="Checkpoint to start from: a file, 'last' or 'best'.")
        parser.add_argument("--checkpoint_minutes", type=float, default=10.0, help="Minutes between two last.ckpt.")
        parser.add_argument(
            "--keep_checkpoints",
            type=int,
            default=0,
            help="How many step-N.ckpt to keep, one an evaluation, the newest.",
        )
        parser.add_argument("--fresh", action="store_true", help="Move a run that is in run_dir aside and start anew.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        words = [word for action in self._parser(self.session.command)._actions for word in action.option_strings]
        self.session.options = [word.lstrip("-") for word in words if word.startswith("--") and "." not in word[-6:]]
        self.config = parser.parse_args(args)
        config = self.config[self.session.command]
        self.ckpt_path = config.pop("ckpt_path")  # ours: Lightning would take the model's arguments from the file
        self.fresh = config.pop("fresh")
        if config.keep_checkpoints < 0:
            raise InputError(f"--keep_checkpoints must be 0 or more, not {config.keep_checkpoints}")
        if self.fresh and self.session.command != "fit":
            raise InputError("--fresh is an option of fit")

    def before_instantiate_classes(self) -> None:
        session, config = self.session, self.config[self.session.command]
        fit, rehearsal = session.command == "fit", bool(config.trainer.fast_dev_run)
        given = RunDirectory(config.run_dir) if config.run_dir else None
        trained = given if given and given.holds_run() and not (fit and (self.fresh or rehearsal)) else None
        if not fit and trained and self.ckpt_path is None:
            self.ckpt_path = "last"
        if fit and given is None and self.ckpt_path in ("last", "best"):
            newest = newest_run(session.experiment, finished=False)
            which = newest.path if newest else "RUN"
            raise InputError(f"--ckpt_path {self.ckpt_path} continues a run; say which one, as in --run_dir {which}")
        if fit and trained:
            session.checkpoint = self._go_on(trained)
        else:
            session.checkpoint = checkpoints.resolve(self.ckpt_path, trained, session.experiment)
        if not fit and session.checkpoint is None and not rehearsal:
            print_rank0("no --ckpt_path is given: these are the results of an untrained network")

        provide_proxy(
            config,
            session.composed,
            needed=not rehearsal and session.checkpoint is None,
            alone=_only_process(),
        )
        self.saved_config = self._settings()

        if rehearsal:
            self.folder = Path(session.exits.enter_context(tempfile.TemporaryDirectory(prefix="unrender-")))
        elif fit:
            self.folder = self._take_run(given).path
            _set_logger_folders(config.trainer, self.folder, session.run)
        else:
            trained = trained or (run_of(session.checkpoint) if session.checkpoint else None)
            place = trained.path if trained else None
            self.folder = place / session.command if place else given.path if given else self._evaluation_folder()
            _set_logger_folders(config.trainer, self.folder)
            _leave_out_wandb(config.trainer)

    def _settings(self) -> str:
        """The config as ``config.yaml`` has it."""
        saved = self.config[self.session.command].clone()
        for key in OWN_OPTIONS:
            saved.pop(key, None)
        return self._parser(self.session.command).dump(saved, skip_unset=False, skip_validation=True)

    def _go_on(self, run: RunDirectory) -> Path | None:
        """The checkpoint from which a run goes on, None from its start; a finished run ends the command.

        Raises:
            InputError: What is asked for contradicts the run, or its checkpoints cannot be read.
        """
        first = rank_zero_only.rank == 0
        settings = yaml.safe_load(self._settings())
        changed = resume.changes(run, settings) if first else []
        # In this order: the first process takes the run over, and no longer finished, before it writes the new length.
        if not resume.longer(run, settings) and run.status == "finished":
            print_rank0(
                f"{run.path} is finished already; a larger --data.total_kimg trains it on, --fresh starts it anew"
            )
            raise SystemExit(0)
        if changed:
            print_rank0(f"{run.path} goes on with {', '.join(changed)}")
        if proxy := resume.known_proxy(run):
            self.config["fit"][PROXY] = proxy
        if self.ckpt_path not in (None, "last"):
            return checkpoints.resolve(self.ckpt_path, run, self.session.experiment)
        found = checkpoints.last_good(run, say=first)
        if found is None:
            print_rank0(f"{run.path} has no checkpoint yet and starts from the beginning")
        return found

    def _evaluation_folder(self) -> Path:
        return RUNS / self.session.experiment / self.session.command

    def _take_run(self, given: RunDirectory | None) -> RunDirectory:
        """The folder of this training: the one asked for, the next free one, or the first process's."""
        session = self.session
        first = rank_zero_only.rank == 0
        if RANK_FOLDER in os.environ:
            run = RunDirectory(os.environ[RANK_FOLDER])
        elif given is None:
            if not _only_process():
                raise InputError("name the run's folder by --run_dir: several processes are to write into one")
            run = RunDirectory.next(session.experiment)
        else:
            run = given
            if first and run.holds_run() and self.fresh:
                print_rank0(f"{run.path} is now {run.move_aside()}")
            if first and run.holds_run():
                run.take_over()
                session.continued = True
            elif first:
                run.claim()
        session.run = run if first else None
        session.exits.enter_context(_environment(RANK_FOLDER, str(run.path)))
        return run

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        session, config = self.session, self.config_init[self.session.command]
        wanted = config.trainer
        kwargs["default_root_dir"] = str(self.folder)
        if not wanted.fast_dev_run and wanted.logger is not False:
            others = wanted.logger if isinstance(wanted.logger, list) else [wanted.logger]
            session.guarded_loggers = [GuardedLogger(logger) for logger in others if isinstance(logger, Logger)]
            kwargs["logger"] = [MetricsCsv(self.folder), *session.guarded_loggers]
        if session.command == "fit":
            keeps = wanted.enable_checkpointing is not False and not wanted.fast_dev_run
            folder = RunDirectory(self.folder).checkpoints if keeps else None
            watch = TerminateOnNaN()
            session.keeper = RunCheckpoint(
                folder, config.checkpoint_minutes, config.keep_checkpoints, session.signals, watch.check
            )
            self.trainer_defaults["callbacks"] = [watch, RankSignals(session.signals), session.keeper]
            plugins = wanted.plugins if isinstance(wanted.plugins, list) else [wanted.plugins] if wanted.plugins else []
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                kwargs["plugins"] = [*plugins, checkpoints.AtomicCheckpointIO()]
            callbacks = wanted.callbacks if isinstance(wanted.callbacks, list) else [wanted.callbacks]
            if not any(isinstance(callback, Checkpoint) for callback in callbacks):
                kwargs["enable_checkpointing"] = False  # Lightning's own would write a second copy of last.ckpt
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # Lightning's words about the trainer's options
            raise InputError(f"trainer: {error}") from error

    def _run(self, method: str, **kwargs: Any) -> Any:
        path = self.session.checkpoint
        try:
            return getattr(self.trainer, method)(**kwargs, ckpt_path=path and str(path), weights_only=True)
        except RuntimeError as error:
            if method == "fit" and "returned nan values" in str(error):  # detect_anomaly
                step = getattr(self.model, "step", 0) + 1
                raise DivergedError(f"step {step}: in the backward pass, {error}") from error
            raise

    def fit(self, **kwargs: Any) -> None:
        """Train, with the folder's first files written before and its run_metadata open."""
        session = self.session
        if session.run:
            if session.continued:
                place = checkpoints.check(session.checkpoint) if session.checkpoint else None
                session.run.cut_back(place.logged if place else -1)
            session.run.start(session.experiment, [session.command, *session.argv], self.saved_config)
            session.exits.enter_context(heartbeat(session.run.metadata_file))
        session.started = True
        weights = sum(p.numel() for p in self.model.parameters())
        device = self.trainer.strategy.root_device
        start = f", from {session.checkpoint}" if session.checkpoint else ""
        where = f"{session.run.path}: " if session.run else ""
        for board in session.guarded_loggers:
            board.log_hyperparams(yaml.safe_load(self.saved_config))
        seed = self.config[session.command].seed_everything
        print_rank0(f"{where}{type(self.model).__name__}, {weights:,} weights, on {device}, seed {seed}{start}")
        self._run("fit", **kwargs)

    def validate(self, **kwargs: Any) -> None:
        self._run("validate", **kwargs)

    def test(self, **kwargs: Any) -> None:
        self._run("test", **kwargs)

    def predict(self, **kwargs: Any) -> None:
        self._run("predict", **kwargs, return_predictions=False)
        if not self.trainer.fast_dev_run and self.folder.is_dir():
            print_rank0(f"written to {self.folder}")


def main(command: str, argv: list[str]) -> int:
    """Run one of LightningCLI's commands; returns the exit status.

    Raises:
        InputError: What the user gave cannot be used.
    """
    # --help alone is the short one of trainer.cli.experiment_help
    argv = ["--help" if word == "--help_all" else word for word in argv]
    with quiet(), Signals() as signals, ExitStack() as exits:
        session = Session(command, argv, signals=signals, exits=exits)
        status = "failed"
        try:
            UnrenderCLI(session)
            status = "finished"
        except (Stopped, KeyboardInterrupt, SIGTERMException):
            return stopped(session)
        except SystemExit as exit_:  # help, --print_config; or Lightning after Ctrl-C
            if signals.received:
                return stopped(session)
            return exit_.code if isinstance(exit_.code, int) else 0
        except DivergedError as error:
            print(f"error: {diverged(error, session)}", file=sys.stderr)
            return nan_guard.STATUS
        except Exception as error:
            sentence = explain(error, session)
            session.refused = sentence is not None
            if sentence is None or os.environ.get("UNRENDER_TRACEBACK"):
                raise
            raise sentence from error
        finally:
            close(session, "interrupted" if signals.received and status != "finished" else status)
    return 0


def _only_process() -> bool:
    counts = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    return all(count in ("", "1") for count in counts) and rank_zero_only.rank == 0


def _set_logger_folders(trainer: jsonargparse.Namespace, folder: Path, run: RunDirectory | None = None) -> None:
    """Loggers write into the run's folder unless the config says otherwise; Weights & Biases goes on with its run."""
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in loggers:
        arguments = logger.get("init_args") if isinstance(logger, jsonargparse.Namespace) else None
        if arguments is not None and "save_dir" in arguments and arguments.save_dir in (None, "."):
            arguments.save_dir = str(folder)
        if run and arguments is not None and logger.class_path.endswith(WANDB) and arguments.id is None:
            arguments.id = run.wandb_id()


def _leave_out_wandb(trainer: jsonargparse.Namespace) -> None:
    """What ``validate`` and its like measure is no part of the training that the dashboard shows."""
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    kept = [x for x in loggers if not (isinstance(x, jsonargparse.Namespace) and x.class_path.endswith(WANDB))]
    if len(kept) < len(loggers):
        trainer.logger = kept or None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


fit, validate, test, predict = (partial(main, name) for name in ("fit", "validate", "test", "predict"))
