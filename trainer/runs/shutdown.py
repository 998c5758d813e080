"""How a command ends: the one sentence for what went wrong, the word on how to go on, the run_metadata."""

import shlex
import shutil
import sys
import time
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from utils.errors import InputError
from trainer.runs import checkpoints
from trainer.cli import error_messages
from trainer.cli.disk_errors import disk_error
from callbacks.nan_guard import DivergedError
from trainer.cli.session import Session


def explain(error: Exception, session: Session) -> InputError | None:
    """The one sentence for a mistake that is the user's, or None."""
    message = str(error)
    if told := error_messages.find_input_error(error):
        return told
    if sentence := disk_error(error):
        good = f"; the last good checkpoint is {good}" if (good := _last_checkpoint(session)) else ""
        return InputError(f"{sentence}{good}; make room and run the command again")
    if isinstance(error, error_messages.ParseError):
        return error_messages.parse_error(message, session.composed, session.given, session.options)
    if isinstance(error, OmegaConfBaseException):
        return error_messages.interpolation_error(message, session.composed)
    if isinstance(error, MisconfigurationException):
        return InputError(message)
    unfit = ("Error(s) in loading state_dict", "loaded state dict ", "The checkpoint does not contain", "optimizers")
    if session.checkpoint and isinstance(error, (RuntimeError, ValueError, KeyError)) and message.startswith(unfit):
        return error_messages.checkpoint_error(message, str(session.checkpoint))
    return None


def diverged(error: DivergedError, session: Session) -> str:
    """What is said of losses or weights that are no numbers any more."""
    good = _last_checkpoint(session)
    place = (
        f"the last good checkpoint is {good}, of step {checkpoints.check(good).steps}" if good else "nothing was saved"
    )
    return f"{error}; {place}; try lower learning rates, --trainer.detect_anomaly=true names the operation"


def _last_checkpoint(session: Session) -> Path | None:
    """That of the training that this command began."""
    path = session.run.last_checkpoint if session.run and session.started else None
    return path if path and path.is_file() else None


def stopped(session: Session) -> int:
    """Say how to go on, and return the signal's exit status."""
    if session.run and session.run.last_checkpoint.is_file():
        saved = "stopped and saved" if session.keeper and session.keeper.saved else "stopped"
        again = f"{called_as()} fit --run_dir {shlex.quote(str(session.run.path))}"
        print(f"{saved}; continue with: {again}", file=sys.stderr)
    elif rank_zero_only.rank == 0:
        began = "stopped before the training began" if session.run is None else "stopped; nothing was saved"
        print(f"{began}; the same command begins again" if session.command == "fit" else "stopped", file=sys.stderr)
    if rank_zero_only.rank:
        time.sleep(1)  # whoever started the ranks ends all when one leaves, and the first has the run_metadata to close
    return session.signals.status


def called_as() -> str:
    """How this program was called, so that a line that is printed can be typed: ``.venv/bin/python -m trainer``."""
    installed = Path(sys.argv[0]).name == "unrender"
    program = Path.cwd() / (sys.argv[0] if installed else sys.executable)  # unresolved: a link of a .venv stays one
    found = shutil.which(program.name)
    if found and Path(found) == program:
        word = program.name
    else:
        word = shlex.quote(str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program))
    return word if installed else f"{word} -m trainer"


def close(session: Session, status: str) -> None:
    """Write down how the session ended: to the guarded_loggers, and in the run_metadata of a training."""
    for board in session.guarded_loggers:
        board.close(status)
    if session.run is None:
        return
    try:
        if not session.started or (session.refused and session.run.holds_nothing()):
            session.run.give_up()
            return
        session.run.end(status)
    except OSError:  # a full disk: a run_metadata whose process is gone says interrupted
        return
    if status == "finished":
        print_rank0(f"finished: {session.run.path}")


def print_rank0(line: str) -> None:
    """One line, from the first rank."""
    if rank_zero_only.rank == 0:
        print(line, flush=True)
