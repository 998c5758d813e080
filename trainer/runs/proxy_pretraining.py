"""Train the neural proxy before the run that needs it, when ``proxy_checkpoint`` names a config instead of a checkpoint.

If the run's shapes come from ShapeNet or a voxel archive, so do the proxy's (supplement, table 3), see :class:`ProxyData`.
"""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from datamodules.shapes import archive_classes
from datamodules.shapes.archive import ALIASES
from trainer.cli.config_composition import Composed, compose, find_config, init_args, names_yaml
from trainer.runs.child_processes import TRAINER, run_trainer
from trainer.runs.resume import PLACES, last_part, leaves
from trainer.runs.run_directory import RUNS, RunDirectory, newest_run
from utils.errors import InputError
from utils.signals import Stopped

KEY = "model.init_args.proxy_checkpoint"
LOCATIONS = {"ShapeNetShapes": "root", "VoxelArchive": "path"}  # sources of shapes with categories, and their argument
# Arguments that do not hold for other categories.
OF_A_CATEGORY = ("category", "split", "voxel_size", "turns", "models")


@dataclass(frozen=True)
class ProxyData:
    """The shapes that a proxy is pre-trained on.

    Args:
        source: class and location of the shapes, as in :data:`LOCATIONS`; None for those of the proxy's own config.
        shapes: values of ``shapes`` and ``validation_shapes`` that replace those of the proxy's config.
        note: what to tell the user, or nothing.
    """

    source: tuple[str, str] | None = None
    shapes: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the proxy's ``fit`` that select the shapes."""
        return tuple(f"--data.{key}={json.dumps(value, default=str)}" for key, value in self.shapes.items())


def proxy_data(config: Path, shapes: dict[str, Any] | None) -> ProxyData:
    """Return the shapes that the proxy of ``config`` is pre-trained on for a run with these shapes.

    They have the run's source if that has categories (ShapeNet, a voxel archive) and the proxy's config generates shapes of
    a category. Random cubes stay procedural, and so do the tables and chairs for an archive that has none.

    Args:
        config: the proxy's config.
        shapes: ``data.init_args.shapes`` of the run's config; None for data without shapes.

    Raises:
        InputError: the archive does not exist.
    """
    own = init_args(compose([config]).values, "data").get("shapes", {})
    source = shapes_source(shapes)
    category = own.get("init_args", {}).get("category")
    if source is None or shapes is None or _class_name(own) != "ProceduralShapes" or category in (None, "cubes"):
        return ProxyData()
    location = source[1]
    if source[0] == "VoxelArchive" and not {category, ALIASES.get(category)} & set(archive_classes(location)):
        return ProxyData(note=f"{location} has no class {category!r}: the proxy is pre-trained on procedural shapes")
    given = {key: value for key, value in shapes["init_args"].items() if key not in OF_A_CATEGORY and value is not None}
    given |= {LOCATIONS[source[0]]: location, "category": category, "voxel_size": own["init_args"].get("voxel_size")}
    sources = {
        key: {"class_path": shapes["class_path"], "init_args": given | {"split": split}}
        for key, split in (("shapes", "train"), ("validation_shapes", "test"))
    }
    return ProxyData(source, sources)


def shapes_source(shapes: dict[str, Any] | None) -> tuple[str, str] | None:
    """Return class and location of shapes in a config; None unless they are one of :data:`LOCATIONS`."""
    name = _class_name(shapes)
    location = (shapes or {}).get("init_args", {}).get(LOCATIONS.get(name, ""))
    return (name, os.path.abspath(location)) if isinstance(location, str) else None  # noqa: PTH100 - links stay


def trained_proxy(config: Path, data: ProxyData, *, finished: bool) -> RunDirectory | None:
    """The newest run of a proxy's config on these shapes, with the config's own model, length and so on."""
    return newest_run(config.stem, finished, lambda run: not _mismatch(run, config, data))


def _mismatch(run: RunDirectory, config: Path, data: ProxyData) -> str:
    """How a run differs from a training of the proxy's config on these shapes, in words; nothing if it does not."""
    if shapes_source(proxy_shapes(run)) != data.source:
        return "it was trained on other shapes"
    wanted = compose([config]).values
    init_args(wanted, "data").update(data.shapes)
    locations = tuple(f"shapes.init_args.{name}" for name in LOCATIONS.values())  # compared as absolute paths above
    found = dict(leaves({key: run.settings.get(key) for key in ("model", "data")}))
    for key, value in leaves({key: wanted.get(key) for key in ("model", "data")}):
        compared = key in found and not key.endswith(locations) and last_part(key) not in PLACES
        if last_part(key) == "class_path":  # classes may be named by the package or the module
            compared = compared and last_part(found[key]) != last_part(value)
        if compared and not str(value).startswith("${") and found[key] != value:
            return f"its {key} is {found[key]}, not {value}"
    return ""


def proxy_shapes(run: RunDirectory) -> dict[str, Any] | None:
    """``data.init_args.shapes`` of a run's config: its ``class_path`` and ``init_args``; None if it has none."""
    value: Any = run.settings
    for key in ("data", "init_args", "shapes"):
        value = value.get(key) if isinstance(value, dict) else None
    valid = (
        isinstance(value, dict)
        and isinstance(value.get("class_path"), str)
        and isinstance(value.get("init_args"), dict)
    )
    return value if valid else None


def provide_proxy(
    config: Namespace,
    composed: Composed,
    *,
    needed: bool,
    single_process: bool,
    restricted: bool = False,
    check_data: Callable[[], None] = lambda: None,
) -> None:
    """Replace a proxy's config by the checkpoint of its newest finished run; train it first if there is none.

    Args:
        config: The command's config, changed in place.
        composed: The composed files. A config is looked up next to the file that names it.
        needed: Whether the proxy's weights are used; if not, the key is set to None.
        single_process: Whether this is the only process. Several processes cannot all train the proxy.
        restricted: Whether the config is that of a run that is not trusted. The proxy's config could name any class.
        check_data: Checks the data of the run itself, before the proxy is trained.

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
    shapes = config.get("data.init_args.shapes")
    data = proxy_data(path, shapes.as_dict() if isinstance(shapes, Namespace) else shapes)
    command = ["fit", "--config", str(path), *data.options]
    run = trained_proxy(path, data, finished=True)
    if single_process and data.note:
        print(data.note, flush=True)
    if run is None:
        if not single_process:
            raise InputError(
                f"the proxy of {name} is not trained yet; train it first: {shlex.join([*TRAINER, *command])}"
            )
        check_data()
        if interrupted := _interrupted_run(path, data, command):
            print(f"resuming the training of the proxy first: {interrupted.path}", flush=True)
            command += ["--run_dir", str(interrupted.path)]
        else:
            if other := newest_run(path.stem, finished=True):
                print(f"{other.path} is not used as proxy: {_mismatch(other, path, data)}", flush=True)
            print(
                f"training the proxy first, once: the network that imitates the renderer ({path.stem}, "
                f"kept in {RUNS / path.stem})",
                flush=True,
            )
        _train(command, path)
        run = trained_proxy(path, data, finished=True)
        if run is None:
            raise InputError(f"training {path} did not leave a finished run with a last checkpoint")
    if single_process:
        print(f"proxy: {run.last_checkpoint}", flush=True)
    config[KEY] = str(run.last_checkpoint)


def _class_name(shapes: dict[str, Any] | None) -> str:
    return str((shapes or {}).get("class_path", "")).rpartition(".")[2]


def _interrupted_run(config: Path, data: ProxyData, command: list[str]) -> RunDirectory | None:
    """The newest training of the proxy, if it was interrupted and started by the same command."""
    run = trained_proxy(config, data, finished=False)
    if run is None or run.status != "interrupted":
        return None
    return run if run.commands()[:1] == [[*TRAINER, *command]] else None


def _train(command: list[str], config: Path) -> None:
    status = run_trainer(command)
    if status in (130, 143):
        raise Stopped
    if status:
        raise InputError(
            f"training the proxy with {config} failed with status {status}; see its message above, or pass another "
            "checkpoint by --model.proxy_checkpoint"
        )
