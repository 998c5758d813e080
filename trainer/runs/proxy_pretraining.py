"""What a training needs trained before it: the proxy that ``proxy_checkpoint`` names by its config."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from jsonargparse import Namespace

from utils.errors import InputError
from trainer.cli.config_composition import Composed, find_config, names_yaml
from trainer.runs.run_directory import RUNS, RunDirectory, newest_run
from utils.signals import Stopped

KEY = "model.init_args.proxy_checkpoint"


def provide_proxy(config: Namespace, composed: Composed, *, needed: bool, alone: bool) -> None:
    """Put the checkpoint of its newest finished run in the place of a proxy's config, training it first if there is none.

    Args:
        config: The command's config, changed in place.
        composed: Where its values come from: a config is looked up beside the file that names it.
        needed: Whether the proxy's weights matter; if not, the name is simply dropped.
        alone: Whether this is the only process; several cannot all train it.
    """
    name = config.get(KEY)
    if not names_yaml(name):
        return
    if not needed:
        config[KEY] = None
        return
    origin = composed.origin(KEY)
    beside = origin.parent if origin and (origin.parent / name).is_file() else None
    path = find_config(name, beside)
    command = ["-m", "trainer", "fit", "--config", str(path)]
    run = newest_run(path.stem, finished=True)
    if run is None:
        if not alone:
            raise InputError(f"the proxy of {name} is not trained yet; train it first: python {' '.join(command)}")
        begun = _begun(path.stem, command)
        if begun is None:
            print(
                f"first, once, the proxy is trained, the network that learns to draw like the renderer: {path.stem} "
                f"({RUNS / path.stem} keeps it)",
                flush=True,
            )
        else:
            print(f"first the training of the proxy goes on: {begun.path}", flush=True)
        _train(command + (["--run_dir", str(begun.path)] if begun else []), path)
        run = newest_run(path.stem, finished=True)
        if run is None:
            raise InputError(f"training {path} left no finished run with a last checkpoint")
    if alone:
        print(f"proxy: {run.last_checkpoint}", flush=True)
    config[KEY] = str(run.last_checkpoint)


def _begun(experiment: str, command: list[str]) -> RunDirectory | None:
    """A training of the proxy that an earlier start began by this very command, and that was stopped."""
    run = newest_run(experiment, finished=False)
    if run is None or run.status != "interrupted":
        return None
    first = (run.path / "command.txt").read_text(encoding="utf-8").splitlines()[0]
    return run if first == shlex.join(["python", *command]) else None


def _train(command: list[str], config: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "UNRENDER_RUN_DIR"}
    with subprocess.Popen([sys.executable, *command], env=environment) as child:
        try:
            status = child.wait()
        except BaseException:  # a signal: the child saves its own training before both leave
            child.terminate()
            child.wait()
            raise
    if status in (130, 143):
        raise Stopped
    if status:
        raise InputError(f"training the proxy by {config} failed with status {status}; its message stands above")
