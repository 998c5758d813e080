"""The commands ``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with run directories, signals and short errors.

``trainer.cli.config_composition`` describes how configs compose. Options beside those of LightningCLI:

- ``--run_dir``: where ``fit`` writes (default: ``runs/<config>/<NNN>``). If the directory holds a run, ``fit`` resumes it
  (see ``trainer.runs.resume``); ``--fresh`` moves that run aside and starts over. The other commands take config and last
  checkpoint from the run, unless they are given, and write to a subdirectory named like the command.
- ``--ckpt_path``: a file, or ``last`` or ``best`` of the run.
- ``--checkpoint_minutes``: how often ``last.ckpt`` is written. It is also written after each evaluation, at the end, and
  when SIGINT or SIGTERM stops the training. ``--keep_checkpoints``: how many earlier checkpoints to keep.
- ``--trust``: load any class that the run's config names; see ``trainer.cli.trust``.
- ``--monitor``, ``--mode``: the metric that ``best.ckpt`` follows, and whether its best value is the minimum or the maximum.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.model_helpers import is_overridden

from callbacks import nan_guard
from callbacks.checkpointing import RunCheckpoint, progress
from callbacks.distributed_signals import RankSignals
from callbacks.loggers.csv import NAME as METRICS_CSV
from callbacks.loggers.csv import MetricsCsv
from callbacks.loggers.guarded import GuardedLogger
from callbacks.metrics_log import ValidationRecord
from callbacks.monitor import Mode, Monitor
from callbacks.nan_guard import DivergedError, TerminateOnNaN
from datamodules.base import RunDataModule
from lightning_modules.generative import GenerativeModule
from trainer.__main__ import options_of
from trainer.cli import config_errors, trainer_options
from trainer.cli.command_parser import TRUST
from trainer.cli.jsonargparse_compat import PARSER_MODE, restore_yaml
from trainer.cli.log_filters import global_rank, print_rank0, quiet
from trainer.cli.loggers import as_list, configure_loggers, remove_wandb
from trainer.cli.null_values import check_null_values
from trainer.cli.session import Session
from trainer.cli.trust import check_links
from trainer.runs import checkpoints, resume
from trainer.runs.child_processes import RUN_DIR_VARIABLE
from trainer.runs.proxy_pretraining import KEY as PROXY_KEY
from trainer.runs.proxy_pretraining import provide_proxy
from trainer.runs.published import BUILD_BYTES, PublishedRun
from trainer.runs.run_directory import RUNS, RunDirectory, find_run, newest_run
from trainer.runs.run_lock import heartbeat
from trainer.runs.shutdown import as_input_error, close, divergence_message, report_incomplete, report_stop
from utils.closed_pipes import reader_is_gone
from utils.errors import InputError, check_number
from utils.launch import without_stray_variables
from utils.memory import limited_memory
from utils.signals import Signals, Stopped

UNSAVED_OPTIONS = ("run_dir", "ckpt_path", "fresh", "trust", "config")  # they describe this start, not the experiment
PARSER = {"parser_mode": PARSER_MODE, "allow_abbrev": False, "dump_header": None}


class _Parser(LightningArgumentParser):
    """Raises errors instead of printing usage and exiting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # an internal attempt of jsonargparse
            super().error(message, ex)
        raise config_errors.ParseError(message) from ex

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        if not self.exit_on_error and args:
            args = [restore_yaml(word) for word in args]
        return super().parse_args(args, *rest, **kwargs)


def _help(command: str) -> dict[str, str | None]:
    parser = options_of(command)
    return {"usage": parser.usage, "description": parser.description}


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
            parser_kwargs=PARSER | {name: PARSER | _help(name) for name in self.subcommands()},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=session.arguments(),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        always = {"ckpt_path", "weights_only", "return_predictions"}  # set by this class, not by the user
        return {name: skipped | always for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        run_dir = (
            "The run directory (fit: default runs/<config>/<NNN>; others: a run created by fit, or a file of publish)."
        )
        parser.add_argument("--run_dir", type=str | None, help=run_dir)
        parser.add_argument("--ckpt_path", type=str | None, help="Checkpoint to start from: a file, 'last' or 'best'.")
        parser.add_argument("--checkpoint_minutes", type=float, default=10.0, help="Minutes between checkpoints.")
        keep = "How many step-N.ckpt to keep: one per evaluation, the newest ones."
        parser.add_argument("--keep_checkpoints", type=int, default=0, help=keep)
        monitor = "The metric of evaluations that best.ckpt follows (default: sfid, or else fid, or else kid)."
        parser.add_argument("--monitor", type=str | None, help=monitor)
        mode = "Whether the best value of monitor is its minimum or its maximum (default: the metric's own)."
        parser.add_argument("--mode", type=Mode | None, help=mode)
        parser.add_argument("--fresh", action="store_true", help="Move a run in run_dir aside and start over.")
        parser.add_argument("--trust", action="store_true", help=TRUST)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        words = [word for action in self._parser(self.session.command)._actions for word in action.option_strings]
        self.session.options = [
            word.lstrip("-") for word in words if word.startswith("--") and not word.endswith(".help")
        ]
        self.config = parser.parse_args(args)
        config = self.config[self.session.command]
        check_null_values(config, self.session.composed, self.session.given)
        self.ckpt_path = config.pop("ckpt_path")  # otherwise Lightning would take the model's arguments from the file
        self.fresh = config.pop("fresh")
        config.pop("trust")  # read by the session
        check_number("--keep_checkpoints", config.keep_checkpoints, at_least=0)
        check_number("--checkpoint_minutes", config.checkpoint_minutes, at_least=0)
        if not isinstance(config.seed_everything, bool):
            check_number("--seed_everything", config.seed_everything, at_least=0, at_most=2**32 - 1)
        self.monitor = Monitor(config.monitor, config.mode)
        if self.fresh and self.session.command != "fit":
            raise InputError("--fresh is an option of fit only")

    def before_instantiate_classes(self) -> None:
        session, config = self.session, self.config[self.session.command]
        self._check_trainer(config)
        fit, fast_dev_run = session.command == "fit", bool(config.trainer.fast_dev_run)
        given = session.given_run
        self.published = given if isinstance(given, PublishedRun) else None
        # Without its run.json, which fit needs, a run can still be read.
        readable = given and not (fit or self.published) and given.config.is_file()
        held = given if given and (given.holds_run() or readable) else None
        trained = held if not (fit and (self.fresh or fast_dev_run)) else None
        if fit and given and not (held or fast_dev_run):
            given.check_empty()
        if not fit and trained and self.ckpt_path is None:
            self.ckpt_path = "last"
        if not (fit or held or self.published or fast_dev_run) and given and self.ckpt_path is None:
            raise InputError(
                f"--run_dir {given.path} holds no run; pass a directory created by fit, or omit it for an untrained network"
            )
        if fit and given is None and self.ckpt_path in ("last", "best"):
            newest = newest_run(session.experiment, finished=False)
            run_dir = newest.path if newest else "RUN"
            raise InputError(f"--ckpt_path {self.ckpt_path} needs a run; pass it, as in --run_dir {run_dir}")
        if fit and given and self.ckpt_path in ("last", "best") and (held is None or self.fresh):
            state = "would be moved aside by --fresh" if held else "holds no run yet"
            raise InputError(f"--ckpt_path {self.ckpt_path} is of the run in {given.path}, which {state}; pass a file")
        if fit and trained:
            session.checkpoint = self._resume_checkpoint(trained)
        elif self.ckpt_path is not None:
            session.checkpoint = checkpoints.resolve(self.ckpt_path, held, session.experiment)
        if not (fit or session.checkpoint or self.published or fast_dev_run):
            print_rank0("no --ckpt_path is given: these are the results of an untrained network")

        provide_proxy(
            config,
            session.composed,
            needed=not (fast_dev_run or session.checkpoint or self.published),
            single_process=self.alone,
            restricted=session.restricted,
            check_data=partial(self._check_data, config),
        )
        self.saved_config = self._config_yaml()

        if fast_dev_run:
            self.folder = Path(session.exits.enter_context(tempfile.TemporaryDirectory(prefix="unrender-")))
        elif fit:
            self.folder = self._open_run(given).path
            configure_loggers(config.trainer, self.folder, session.run, session.given)
        else:
            run = trained or self.published or (find_run(session.checkpoint) if session.checkpoint else None)
            if run:
                check_links(run.path, session.trust)
                self.folder = run.path / session.command
                session.options_changed = resume.differences(run, yaml.safe_load(self.saved_config))
                if session.checkpoint and not session.checkpoint.resolve().is_relative_to(run.path.resolve()):
                    session.options_changed["ckpt_path"] = str(session.checkpoint)
            else:
                self.folder = (given.path if given else RUNS / session.experiment) / session.command
            (self.folder / METRICS_CSV).unlink(missing_ok=True)  # of an earlier command
            configure_loggers(config.trainer, self.folder)
            remove_wandb(config.trainer)

    def _check_trainer(self, config: jsonargparse.Namespace) -> None:
        """Check the trainer's options before anything is built, and take this process's rank from the trainer alone."""
        model, data = (
            trainer_options.class_of(config.get(section)) or base
            for section, base in (("model", LightningModule), ("data", LightningDataModule))
        )
        self.alone = trainer_options.is_alone(
            trainer_options.check(config.trainer, model, data, config.get("data.init_args"))
        )
        for note in self.session.notes:
            print_rank0(note)

    def _check_data(self, config: jsonargparse.Namespace) -> None:
        """Build the data module from the config, once more than :meth:`instantiate_classes` does, and check its data."""
        built = self._parser(self.session.command).instantiate(jsonargparse.Namespace(data=config.data))
        if isinstance(built.data, RunDataModule):
            built.data.check_data()

    def _config_yaml(self) -> str:
        """The content of the run's ``config.yaml``."""
        saved = self.config[self.session.command].clone()
        for key in UNSAVED_OPTIONS:
            saved.pop(key, None)
        return self._parser(self.session.command).dump(saved, skip_unset=False, skip_validation=True)

    def _resume_checkpoint(self, run: RunDirectory) -> Path | None:
        """The checkpoint to resume a run from; None if it has none yet.

        Raises:
            InputError: The config contradicts the run, or its checkpoints cannot be read.
            SystemExit: The run is finished.
        """
        first = global_rank() == 0
        settings = yaml.safe_load(self._config_yaml())
        changed = resume.changes(run, settings) if first else []
        # In this order: rank 0 takes the run over, which ends its status "finished", before it writes the new length.
        if not resume.is_longer(run, settings) and run.status == "finished":
            print_rank0(
                f"{run.path} is already finished; pass a larger --data.total_kimg to train longer, or --fresh to start over"
            )
            raise SystemExit(0)
        if changed:
            print_rank0(f"{run.path} resumes with {', '.join(changed)}")
        if proxy := resume.known_proxy(run):
            self.config["fit"][PROXY_KEY] = proxy
        if self.ckpt_path not in (None, "last"):
            return checkpoints.resolve(self.ckpt_path, run, self.session.experiment)
        checkpoint = checkpoints.newest_valid(run, report=first)
        if checkpoint is None and run.status == "finished":  # starting again would delete its metrics
            raise InputError(
                f"{run.path} is finished, but has no checkpoint to continue; put one back, or pass --fresh"
            )
        if checkpoint is None:
            print_rank0(f"{run.path} has no checkpoint yet and starts from the beginning")
        return checkpoint

    def _open_run(self, given: RunDirectory | None) -> RunDirectory:
        """Create or take over the training's run directory: the given one, the next free one, or that of rank 0."""
        session = self.session
        first = global_rank() == 0
        if RUN_DIR_VARIABLE in os.environ:
            run = RunDirectory(os.environ[RUN_DIR_VARIABLE])
        elif given is None:
            if not self.alone:
                raise InputError("several processes share one run directory; pass --run_dir")
            run = RunDirectory.create_next(session.experiment)
        else:
            run = given
            if first and run.holds_run() and self.fresh:
                print_rank0(f"moved {run.path} to {run.move_aside()}")
            if first and run.holds_run():
                run.acquire()
                session.resumed = True
            elif first:
                run.create()
        session.run = run if first else None
        session.exits.enter_context(_environment(RUN_DIR_VARIABLE, str(run.path)))
        return run

    def instantiate_classes(self) -> None:
        """Build all parts. An extractor that does not suit the data is refused here, before data are prepared.

        The extractor of a checkpoint's run is not refused, unless the command line names it.
        """
        with limited_memory(BUILD_BYTES) if self.published else nullcontext():
            super().instantiate_classes()
        session = self.session
        if self.published:
            self.published.load_weights(self.model)
        untrained = session.checkpoint is None and self.published is None
        chosen = untrained or any(key.rpartition(".")[2] == "extractor" for key in session.given)
        if not isinstance(self.model, GenerativeModule):
            return
        if session.command != "predict" and chosen:
            self.model.check_extractor(self.datamodule)
        # Samples need no data, and the test data are the validation data unless a data module has others.
        for name, loader in (
            ("predict_dataloader", self.model.predict_dataloader),
            ("test_dataloader", self.datamodule.val_dataloader),
        ):
            if not is_overridden(name, self.datamodule, LightningDataModule):
                setattr(self.datamodule, name, loader)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        session, config = self.session, self.config_init[self.session.command]
        options = config.trainer
        kwargs["default_root_dir"] = str(self.folder)
        if not options.fast_dev_run and options.logger is not False:
            session.guarded_loggers = [GuardedLogger(x) for x in as_list(options.logger) if isinstance(x, Logger)]
            kwargs["logger"] = [MetricsCsv(self.folder), *session.guarded_loggers]
        if session.command == "fit":
            saves = options.enable_checkpointing is not False and not options.fast_dev_run
            folder = RunDirectory(self.folder).checkpoints if saves else None
            nan_check = TerminateOnNaN()
            session.checkpointing = RunCheckpoint(
                folder,
                config.checkpoint_minutes,
                config.keep_checkpoints,
                session.signals,
                nan_check.check,
                self.monitor,
            )
            self.trainer_defaults["callbacks"] = [nan_check, RankSignals(session.signals), session.checkpointing]
            plugins = as_list(options.plugins)
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                kwargs["plugins"] = [*plugins, checkpoints.AtomicCheckpointIO()]
            if not any(isinstance(callback, Checkpoint) for callback in as_list(options.callbacks)):
                kwargs["enable_checkpointing"] = False  # Lightning's own would write a second copy of last.ckpt
        if options.enable_progress_bar is False:
            options.callbacks = [x for x in as_list(options.callbacks) if not isinstance(x, ProgressBar)]
        for callback in as_list(options.callbacks):
            if isinstance(callback, ValidationRecord):
                callback.options = session.options_changed
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError) as error:  # Lightning's message about one of the trainer's options
            raise InputError(f"trainer: {error}") from error
        if options.fast_dev_run:  # Lightning counts the steps of all optimizers, so a GAN ends before its evaluation
            trainer.fit_loop.epoch_loop.max_steps = -1
        return trainer

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
        """Write the run's first files, then train."""
        session = self.session
        plan = getattr(self.datamodule, "plan", None)
        if session.run and session.checkpoint and not session.resumed and plan:
            steps = checkpoints.check(session.checkpoint).steps
            if steps >= plan.steps:
                raise InputError(
                    f"{session.checkpoint} has been trained for {steps} steps, and total_kimg "
                    f"{self.datamodule.total_kimg:g} is {plan.steps} steps, so nothing would be trained; increase "
                    "--data.total_kimg"
                )
        if session.run:
            if session.resumed:
                position = checkpoints.check(session.checkpoint) if session.checkpoint else None
                session.run.truncate_logs(position.logged if position else -1)
            session.run.start(session.experiment, [session.command, *session.argv], self.saved_config)
            if counts := getattr(self.datamodule, "training_counts", None):
                session.run.record(training_data=counts)
            session.exits.enter_context(heartbeat(session.run.metadata_file))
        session.started = True
        for logger in session.guarded_loggers:
            logger.log_hyperparams(yaml.safe_load(self.saved_config))
        prefix = f"{session.run.path}: " if session.run else ""
        weights = sum(p.numel() for p in self.model.parameters())
        device = self.trainer.strategy.root_device
        seed = self.config[session.command].seed_everything
        start = f", from {session.checkpoint}" if session.checkpoint else ""
        print_rank0(f"{prefix}{type(self.model).__name__}, {weights:,} weights, on {device}, seed {seed}{start}")
        self._run("fit", **kwargs)
        session.progress = progress(self.trainer) if session.run else None
        if session.progress and session.progress[1] == 0:
            raise InputError(f"{type(self.datamodule).__name__} has no training data: its loader has no batches")

    def validate(self, **kwargs: Any) -> None:
        self._run("validate", **kwargs)

    def test(self, **kwargs: Any) -> None:
        self._run("test", **kwargs)

    def predict(self, **kwargs: Any) -> None:
        self._run("predict", **kwargs, return_predictions=False)
        if not self.config["predict"].trainer.fast_dev_run and self.folder.is_dir():
            print_rank0(f"written to {self.folder}")


def main(command: str, argv: list[str]) -> int:
    """Run one of LightningCLI's commands and return the exit status.

    Raises:
        InputError: An option, a config or a file is invalid.
    """
    # --help alone prints the short help of trainer.cli.arguments
    argv = ["--help" if word == "--help_all" else word for word in argv]
    for word in argv:
        if word != word.encode(errors="replace").decode():
            raise InputError(f"{word!r} is not UTF-8, which configs must be; rename the file or the directory")
    with quiet(), Signals() as signals, ExitStack() as exits, without_stray_variables() as notes:
        session = Session(command, argv, signals, exits, notes)
        status = "failed"
        try:
            UnrenderCLI(session)
            status = "finished" if session.complete else "interrupted"
            if not session.complete:
                report_incomplete(session)
        except (Stopped, KeyboardInterrupt, SIGTERMException):
            return report_stop(session)
        except SystemExit as exit_:  # help, --print_config, or Lightning after Ctrl-C
            if signals.received:
                return report_stop(session)
            return exit_.code if isinstance(exit_.code, int) else 0
        except DivergedError as error:
            print(f"error: {divergence_message(error, session)}", file=sys.stderr)
            return nan_guard.STATUS
        except Exception as error:
            if isinstance(error, BrokenPipeError) and reader_is_gone():
                status = "interrupted"
                raise
            if signals.received and not session.started:  # libraries that are being imported may replace Stopped
                return report_stop(session)
            input_error = as_input_error(error, session)
            session.input_error = input_error is not None
            if input_error is None and (raised := config_errors.raised_by_part(error)) is not error:
                raise raised from raised.__cause__
            if input_error is None or os.environ.get("UNRENDER_TRACEBACK"):
                raise
            raise input_error from error
        finally:
            close(session, "interrupted" if signals.received and status != "finished" else status)
    return 0


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
