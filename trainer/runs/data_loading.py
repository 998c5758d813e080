"""The data of a run or a config, for commands that show them and train nothing."""

import tempfile
from pathlib import Path
from typing import Any

import jsonargparse
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser

from renderers import InputError, ViewDistribution
from trainer.cli import error_messages
from trainer.cli.config_composition import SECTIONS, compose
from trainer.cli.jsonargparse_compat import PARSER_MODE
from utils.legacy_names import update_options


class DataOf:
    """The data section of a config, checked; the data need not be there until they are loaded.

    Args:
        config: an experiment's or a run's.
        overrides: options such as ``--data.root=PATH`` that change its values.
        parts: files that lie over its sections, such as ``{"data": "data/lvp.yaml"}``.

    Raises:
        InputError: there is no config, or it or an option cannot be used.
    """

    def __init__(self, config: str | Path, overrides: list[str], parts: dict[str, str] | None = None) -> None:
        self._composed = compose([config], parts or {})
        kept = ("seed_everything", *SECTIONS)  # what interpolations may refer to
        self._composed.values = {k: v for k, v in self._composed.values.items() if k in kept}
        self._overrides = update_options(overrides, self._composed.values)
        self._parser = LightningArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
        self._parser.add_argument("--config", action=jsonargparse.ActionConfigFile)
        self._parser.add_argument("--seed_everything", type=bool | int, default=0)
        self._parser.add_argument("--trainer", type=dict | None)
        self._parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True, required=False)
        self._parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
        with tempfile.TemporaryDirectory(prefix="unrender-") as folder:
            path = Path(folder) / "composed.yaml"
            path.write_text(self._composed.text(), encoding="utf-8")
            self._config = self._explained(self._parser.parse_args, ["--config", str(path), *self._overrides])

    @property
    def reference_views(self) -> ViewDistribution | None:
        """Where the reference of FID is seen from, if the config says so."""
        arguments = self._config.data.get("init_args", {})
        views = arguments.get("reference_views") or arguments.get("views")
        return views and ViewDistribution(**vars(views.get("init_args", views)))

    def load(self) -> LightningDataModule:
        """The data module.

        Raises:
            InputError: what it reads is not there.
        """
        data = jsonargparse.Namespace(data=self._config.data)
        return self._explained(self._parser.instantiate_classes, data).data

    def model(self) -> LightningModule:
        """The config's model, untrained; its data need not be there.

        Raises:
            InputError: parts that do not fit together, or weights that are not there.
        """
        if self._config.get("model") is None:
            raise InputError(f"{self._composed.origin('data') or 'the config'} has no model")
        model = jsonargparse.Namespace(model=self._config.model)
        return self._explained(self._parser.instantiate_classes, model).model

    def _explained(self, call: Any, *arguments: Any) -> Any:
        """A call whose failure is told in one sentence where it is the user's."""
        try:
            return call(*arguments)
        except Exception as error:
            if told := error_messages.find_input_error(error):
                raise told from error
            if isinstance(error, jsonargparse.ArgumentError):
                words = [word for action in self._parser._actions for word in action.option_strings]
                options = [word.lstrip("-") for word in words if word.startswith("--")]
                given = [word.partition("=")[0].lstrip("-") for word in self._overrides]
                raise error_messages.parse_error(str(error), self._composed, given, options) from error
            raise
