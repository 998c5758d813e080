"""A run on Weights & Biases: curves over ``kimg``, grids, objects that turn."""

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

from renderers import InputError

LOWEST = ("fid", "kid", "normal_error", "hollow_rate", "val_relative_error")  # the summary is their minimum
HIGHEST = ("depth_correlation", "silhouette_iou", "val_accuracy")
OFFLINE = ("offline", "dryrun")
LOGIN = "type wandb login, or add --trainer.logger.init_args.offline=true"


class WandbRun(WandbLogger):
    """Lightning's logger for Weights & Biases with ``kimg`` as the x axis of all, and the best figure as the summary.

    Without an answer from the server the run is kept offline, and one line says by which command it is sent later.

    Args:
        project: where the run appears.
        entity: user or team; default is that of the login.
        name: of the run; default is the end of its folder, such as ``demo/001``.
        group: default is :func:`group_of` its folder: the experiment, or the table's cell, whose seeds form one group.
        tags: of the run.
        offline: write to the run's folder only; ``wandb sync`` sends it later. So does WANDB_MODE=offline.
        id: the run's name to the server; a continued run goes on under it.
        save_dir: the run's folder.
        answer_seconds: how long the server may take to answer at the start.
        finish_seconds: how long sending the rest may take at the end.

    Raises:
        InputError: wandb is not installed, or nobody is logged in.
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
                "the logger needs wandb, which is not installed: pip install wandb, or leave the logger out"
            )
        mode = os.environ.get("WANDB_MODE")
        offline = offline or mode in OFFLINE
        if not offline and mode != "disabled" and not logged_in():
            raise InputError(f"wandb: nobody is logged in; {LOGIN}")
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
        self._seconds = {"init_timeout": answer_seconds, "finish_timeout": finish_seconds}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """wandb's run, begun at the first call.

        Raises:
            InputError: the server refuses the key.
        """
        if self._experiment is None:
            self._experiment = self._begin()
            define_metrics(self._experiment)
        return self._experiment

    def _begin(self) -> Any:
        import wandb

        Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        options = {**self._wandb_init, "settings": wandb.Settings(quiet=True, **self._seconds)}
        offline = options | {"mode": "offline", "resume": None}
        if self._offline:
            return wandb.init(**offline)
        try:
            return wandb.init(**options)
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise InputError(f"wandb: {_line(error)}; {LOGIN}") from error
        except wandb.errors.Error as error:
            wandb.teardown()  # which still holds the run's id
            run = wandb.init(**offline)
            again = f"wandb sync {run.settings.sync_dir}"
            print(f"warning: wandb does not answer ({_line(error)}); send the run later: {again}", file=sys.stderr)
            return run

    @rank_zero_only
    def log_clocked_image(self, name: str, image: Tensor, clock: dict[str, float]) -> None:
        """An image ``(C, H, W)`` in [0, 1]."""
        import wandb

        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        logged = wandb.Image(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, file_type="png")
        self.experiment.log({name: logged, **clock})

    @rank_zero_only
    def log_shapes(self, name: str, files: list[Path], clock: dict[str, float]) -> None:
        """GLB files as objects that can be turned."""
        import wandb

        self.experiment.log({name: [wandb.Object3D(str(file)) for file in files], **clock})

    @rank_zero_only
    def close(self, status: str) -> None:
        """Send what is not sent yet, and mark the run as finished or not."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "finished" else 1)


def define_metrics(run: Any) -> None:
    """Every curve over ``kimg``; the summary of a figure is its best value."""
    run.define_metric("kimg")
    run.define_metric("*", step_metric="kimg", step_sync=True)
    for names, best in ((LOWEST, "min"), (HIGHEST, "max")):
        for name in names:
            run.define_metric(name, step_metric="kimg", step_sync=True, summary=best)


def group_of(folder: Path) -> str:
    """What a run's folder says about what it repeats.

    ``runs/demo/001`` is of the group ``demo``; the cells of a table stand alone with their seeds:
    ``runs/tables/table1/iggan-chairs-seed1`` is of ``table1/iggan-chairs``.
    """
    if folder.parent.parent.name != "tables":
        return folder.parent.name
    return f"{folder.parent.name}/{re.sub(r'-seed[0-9]+$', '', folder.name)}"


def logged_in() -> bool:
    """Whether wandb knows a key for its server, by the environment, its settings or ~/.netrc (as of ``wandb login``)."""
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
