"""Train the neural proxy before the run that needs it, when ``proxy_checkpoint`` names a config instead of a checkpoint."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from jsonargparse import Namespace

from trainer.cli.config_composition import Composed, find_config, names_yaml
from trainer.runs.run_directory import RUNS, RunDirectory, newest_run
from utils.errors import InputError
from utils.signals import Stopped

KEY = "model.init_args.proxy_checkpoint"


def provide_proxy(
    config: Namespace, composed: Composed, *, needed: bool, single_process: bool, restricted: bool = False
) -> None:
    """Replace a proxy's config by the checkpoint of its newest finished run; train it first if there is none.

    Args:
        config: The command's config, changed in place.
        composed: The composed files. A config is looked up next to the file that names it.
        needed: Whether the proxy's weights are used; if not, the key is set to None.
        single_process: Whether this is the only process. Several processes cannot all train the proxy.
        restricted: Whether the config is that of a run that is not trusted. The proxy's config could name any class.

    Raises:
        InputError: The proxy's training failed, it is missing and there are several processes, or the run is not trusted.
    """
    name = config.get(KEY)
    if not names_yaml(name):
        return
    if not needed:
        config[KEY] = None
        return
    if restricted:
        raise InputError(f"{KEY} of the run is {name}, a config to train first; pass --trust if you trust the run")
    origin = composed.origin(KEY)
    path = find_config(name, origin.parent if origin and (origin.parent / name).is_file() else None)
    command = ["-m", "trainer", "fit", "--config", str(path)]
    run = newest_run(path.stem, finished=True)
    if run is None:
        if not single_process:
            raise InputError(f"the proxy of {name} is not trained yet; train it first: python {' '.join(command)}")
        if interrupted := _interrupted_run(path.stem, command):
            print(f"resuming the training of the proxy first: {interrupted.path}", flush=True)
            command += ["--run_dir", str(interrupted.path)]
        else:
            print(
                f"training the proxy first, once: the network that imitates the renderer ({path.stem}, "
                f"kept in {RUNS / path.stem})",
                flush=True,
            )
        _train(command, path)
        run = newest_run(path.stem, finished=True)
        if run is None:
            raise InputError(f"training {path} did not leave a finished run with a last checkpoint")
    if single_process:
        print(f"proxy: {run.last_checkpoint}", flush=True)
    config[KEY] = str(run.last_checkpoint)


def _interrupted_run(experiment: str, command: list[str]) -> RunDirectory | None:
    """The newest training of the proxy, if it was interrupted and started by the same command."""
    run = newest_run(experiment, finished=False)
    if run is None or run.status != "interrupted":
        return None
    first = (run.path / "command.txt").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return run if first == shlex.join(["python", *command]) else None


def _train(command: list[str], config: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "UNRENDER_RUN_DIR"}
    with subprocess.Popen([sys.executable, *command], env=environment) as child:
        try:
            status = child.wait()
        except BaseException:  # a signal: let the child save its training first
            child.terminate()
            child.wait()
            raise
    if status in (130, 143):
        raise Stopped
    if status:
        raise InputError(f"training the proxy with {config} failed with status {status}; see its message above")
