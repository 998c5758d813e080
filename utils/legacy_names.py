"""Current names of what version 0.1.0 named differently in configs, checkpoints and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASS_PATHS = {
    "datamodules.HeadPictures": "datamodules.HeadImages",
    "datamodules.shapes.DamagedShapes": "datamodules.shapes.CorruptedShapes",
}
# Arguments of data modules, in configs and on the command line.
ARGUMENTS = {
    "pictures": "images",
    "pictures_per_class": "images_per_class",
    "pictures_per_model": "images_per_model",
    "reference_pictures": "reference_images",
    "validation_pictures_per_class": "validation_images_per_class",
}
# Components of state_dict keys.
PARAMETERS = {"from_picture": "from_image", "to_picture": "to_image", "surroundings": "background"}
# Keys of the callback states in a checkpoint.
CALLBACKS = {"KeepCheckpoints": "RunCheckpoint"}


def update_config(value: Any) -> Any:
    """Return a config with current class paths, and with current argument names for this project's data modules.

    If an argument is given under both names, the old name wins: it comes from a user's file that overrides a config of
    the project.
    """
    if isinstance(value, list):
        return [update_config(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    value = {key: update_config(item) for key, item in value.items()}
    class_path, arguments = value.get("class_path"), value.get("init_args")
    if isinstance(class_path, str):
        value["class_path"] = CLASS_PATHS.get(class_path, class_path)
        if class_path.startswith("datamodules.") and isinstance(arguments, dict):
            value["init_args"] = arguments = dict(arguments)
            for old, new in ARGUMENTS.items():
                if old in arguments:
                    arguments[new] = arguments.pop(old)
    return value


def update_options(words: list[str], config: Mapping[str, Any]) -> list[str]:
    """Return command-line options such as ``--data.pictures=500`` with current argument names.

    Options are changed only if ``config`` selects one of this project's data modules.
    """
    data = config.get("data")
    if not (isinstance(data, Mapping) and str(data.get("class_path")).startswith("datamodules.")):
        return words
    return [_update_option(word) if word.startswith("--data.") else word for word in words]


def _update_option(word: str) -> str:
    option, equals, value = word.partition("=")
    return ".".join(ARGUMENTS.get(part, part) for part in option.split(".")) + equals + value


def update_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with current parameter names."""
    return {".".join(PARAMETERS.get(part, part) for part in key.split(".")): value for key, value in state.items()}


def update_note(note: str) -> str:
    """The note of an evaluation, such as "extractor renders_small, 16 generated against 16 real images", in today's words.

    Evaluations are compared only if their notes are equal.
    """
    return note.replace("pictures", "images")


def update_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Rename the parameters and callback states of a training checkpoint to their current names, in place."""
    checkpoint["state_dict"] = update_state_dict(checkpoint["state_dict"])
    states = checkpoint.get("callbacks", {})
    for old, new in CALLBACKS.items():
        if old in states:
            states[new] = states.pop(old)
    best = states.get("RunCheckpoint", {}).get("best")
    if best:
        best["note"] = update_note(best["note"])
