"""The end of a command: the error message, how to resume, and the run's final status."""

import shlex
import shutil
import sys
import time
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks.nan_guard import DivergedError
from trainer.cli import config_errors, run_errors
from trainer.cli.log_filters import global_rank, print_rank0
from trainer.cli.session import Session
from trainer.cli.trust import needs_trust
from trainer.runs import checkpoints
from trainer.runs.run_directory import RunDirectory
from utils.errors import InputError

MISMATCHES = ("Error(s) in loading state_dict", "loaded state dict ", "The checkpoint does not contain", "optimizers")


def as_input_error(error: Exception, session: Session) -> InputError | None:
    """The one-sentence error if the user can fix its cause, else None."""
    if input_error := config_errors.config_error(error, session.composed, session.given, session.options):
        return input_error
    if disk := run_errors.disk_error(error):
        path = _last_checkpoint(session)
        problem, fix = disk
        saved = f"; the last valid checkpoint is {path}" if path else ""
        return InputError(f"{problem}{saved}; {fix}")
    message = str(error)
    if isinstance(error, MisconfigurationException):
        return InputError(message)
    if (
        session.checkpoint
        and isinstance(error, RuntimeError | ValueError | KeyError)
        and message.startswith(MISMATCHES)
    ):
        return run_errors.checkpoint_error(message, str(session.checkpoint))
    values = AttributeError | IndexError | KeyError | TypeError | ValueError
    if session.checkpoint and isinstance(error, values) and run_errors.restores_checkpoint(error):
        return run_errors.foreign_checkpoint(error, str(session.checkpoint))
    return None


def divergence_message(error: DivergedError, session: Session) -> str:
    """The message for losses or weights that are not finite."""
    path = _last_checkpoint(session)
    saved = (
        f"the last valid checkpoint is {path}, of step {checkpoints.check(path).steps}" if path else "nothing was saved"
    )
    return f"{error}; {saved}; try lower learning rates; --trainer.detect_anomaly=true names the operation"


def _last_checkpoint(session: Session) -> Path | None:
    """The last checkpoint of the training that this command started."""
    path = session.run.last_checkpoint if session.run and session.started else None
    return path if path and path.is_file() else None


def report_stop(session: Session) -> int:
    """Print how to resume, and return the signal's exit status."""
    if session.run and session.run.last_checkpoint.is_file():
        stopped = "stopped and saved" if session.checkpointing and session.checkpointing.saved else "stopped"
        print(f"{stopped}; resume with: {resume_command(session.run)}", file=sys.stderr)
    elif global_rank() == 0:
        stopped = "stopped before the training started" if session.run is None else "stopped; nothing was saved"
        line = f"{stopped}; run the same command to start again" if session.command == "fit" else "stopped"
        print(line, file=sys.stderr)
    if global_rank() != 0:
        time.sleep(1)  # launchers end all ranks when one leaves; rank 0 still has to write run.json
    return session.signals.status


def report_incomplete(session: Session) -> None:
    """Print that a training ended before its last step, as by ``max_time`` or a callback, and how to resume."""
    if session.run is None or session.progress is None:
        return
    done, planned = session.progress
    end = "which has no last step" if planned is None else f"which has {planned:,}"
    resume = f"resume with: {resume_command(session.run)}"
    if not session.run.last_checkpoint.is_file():
        resume = "nothing was saved"
    print(f"stopped by an option or a callback after step {done:,} of the run, {end}; {resume}", file=sys.stderr)


def resume_command(run: RunDirectory) -> str:
    """Return the command that resumes a run to its end: without the limits of its steps, which would end it at once."""
    trainer = run.settings.get("trainer", {})
    words = [program_name(), "fit", "--run_dir", shlex.quote(str(run.path))]
    words += ["--trust"] if needs_trust(run.settings) else []
    for name, unlimited in (("max_steps", -1), ("limit_train_batches", 1.0)):
        words += [f"--trainer.{name}={unlimited}"] if trainer.get(name) not in (None, unlimited) else []
    return " ".join(words)


def program_name() -> str:
    """How this program was called, so that a printed command can be copied, such as ``.venv/bin/python -m trainer``."""
    installed = Path(sys.argv[0]).name == "unrender"
    program = Path.cwd() / (sys.argv[0] if installed else sys.executable)  # not resolved: .venv/bin/python is a link
    on_path = shutil.which(program.name)
    if on_path and Path(on_path) == program:
        word = program.name
    else:
        word = shlex.quote(str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program))
    return word if installed else f"{word} -m trainer"


def close(session: Session, status: str) -> None:
    """Close the loggers and record the status of a training in ``run.json``."""
    for logger in session.guarded_loggers:
        logger.close(status)
    if session.run is None:
        return
    try:
        progressed = session.checkpointing and session.checkpointing.progressed
        undone = session.resumed and status == "failed" and not progressed  # a finished run remains finished
        if not session.started or undone or (session.input_error and session.run.has_no_results()):
            session.run.release()
            return
        session.run.end(status)
    except OSError:  # a full disk: without a living process the run counts as interrupted
        return
    if status == "finished":
        print_rank0(f"finished: {session.run.path}")
