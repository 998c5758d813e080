"""Weights & Biases: curves over ``kimg``, sample grids, 3D objects."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.monitor import MODES
from renderers import InputError
from utils.errors import check_number

OFFLINE = ("offline", "dryrun")
LOGIN = "run wandb login, or pass --trainer.logger.init_args.offline=true"


class WandbRun(WandbLogger):
    """Lightning's Weights & Biases logger with ``kimg`` as the x axis and the best value of each metric as its summary.

    If the server does not answer, the run is written offline, and a warning names the command that sends it later.

    Args:
        project: project of the run.
        entity: user or team; default is that of the login.
        name: name of the run; default is the end of its directory, such as ``demo/001``.
        group: default is :func:`group_of` the directory: the experiment, or the cell of a table, whose seeds are a group.
        tags: tags of the run.
        offline: only write to the run directory; ``wandb sync`` sends it later. WANDB_MODE=offline does the same.
        id: the server's identifier of the run; a resumed run continues under it.
        save_dir: run directory.
        answer_seconds: time limit for the server's answer at the start.
        finish_seconds: time limit for sending the remaining data at the end.

    Raises:
        InputError: wandb is not installed, no user is logged in, or a time limit is out of range.
    """

    def __init__(
        self,
        project: str = "unrender",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        offline: bool = False,
        id: str | None = None,
        save_dir: str | None = None,
        answer_seconds: float = 60.0,
        finish_seconds: float = 300.0,
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise InputError(
                "the logger needs wandb, which is not installed; run pip install wandb, or omit the logger"
            )
        check_number("answer_seconds", answer_seconds, above=0)
        check_number("finish_seconds", finish_seconds, above=0)
        mode = os.environ.get("WANDB_MODE")
        offline = offline or mode in OFFLINE
        if not offline and mode != "disabled" and not logged_in():
            raise InputError(f"wandb: not logged in; {LOGIN}")
        folder = Path(save_dir or ".").resolve()
        super().__init__(
            name=name or "/".join(folder.parts[-2:]),
            project=project,
            entity=entity,
            group=group or os.environ.get("WANDB_RUN_GROUP") or group_of(folder),
            tags=tags,
            id=id,
            save_dir=str(folder),
            offline=offline,
        )
        self._answer_seconds, self._finish_seconds = answer_seconds, finish_seconds

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run, started at the first access.

        Raises:
            InputError: the server rejects the API key.
        """
        if self._experiment is None:
            self._experiment = self._start()
            define_metrics(self._experiment)
        return self._experiment

    def _start(self) -> Any:
        import wandb

        Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(quiet=True, init_timeout=self._answer_seconds, finish_timeout=self._finish_seconds)
        options = {**self._wandb_init, "settings": settings}
        offline = options | {"mode": "offline", "resume": None}
        if self._offline:
            return wandb.init(**offline)
        try:
            return wandb.init(**options)
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise InputError(f"wandb: {_line(error)}; {LOGIN}") from error
        except wandb.errors.Error as error:
            wandb.teardown()  # releases the run's id
            run = wandb.init(**offline)
            command = f"wandb sync {run.settings.sync_dir}"
            print(f"warning: wandb does not answer ({_line(error)}); send the run later: {command}", file=sys.stderr)
            return run

    @rank_zero_only
    def log_image_at(self, name: str, image: Tensor, position: dict[str, float]) -> None:
        """Log an image ``(C, H, W)`` in [0, 1] at a position, its ``kimg`` and ``step``."""
        import wandb

        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        logged = wandb.Image(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, file_type="png")
        self.experiment.log({name: logged, **position})

    @rank_zero_only
    def log_shapes(self, name: str, files: list[Path], position: dict[str, float]) -> None:
        """Log GLB files as interactive 3D objects at a position, its ``kimg`` and ``step``."""
        import wandb

        self.experiment.log({name: [wandb.Object3D(str(file)) for file in files], **position})

    @rank_zero_only
    def close(self, status: str) -> None:
        """Send the remaining data and mark the run as finished or failed."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "finished" else 1)


def define_metrics(run: Any) -> None:
    """Plot all metrics over ``kimg`` and summarize each by its best value."""
    run.define_metric("kimg")
    run.define_metric("*", step_metric="kimg", step_sync=True)
    for name, mode in MODES.items():
        run.define_metric(name, step_metric="kimg", step_sync=True, summary=mode)


def group_of(folder: Path) -> str:
    """Return the group of a run: its experiment, or the cell of a table without the seed.

    ``runs/demo/001`` is in the group ``demo``, ``runs/tables/table1/iggan-chairs-seed1`` in ``table1/iggan-chairs``.
    """
    if folder.parent.parent.name != "tables":
        return folder.parent.name
    return f"{folder.parent.name}/{re.sub(r'-seed[0-9]+$', '', folder.name)}"


def logged_in() -> bool:
    """Return whether wandb has an API key: from the environment, its settings or ~/.netrc (``wandb login``)."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(settings.base_url).hostname or ""
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in files:
        try:
            if netrc(Path(file).expanduser()).authenticators(host):
                return True
        except (OSError, NetrcParseError):
            continue
    return False


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
